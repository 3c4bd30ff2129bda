//! The output of hooks, of which only the beginning is passed on.

use crate::limits::HOOK_OUTPUT_BYTES;

/// The output of the hook that runs.
#[derive(Debug, Default)]
pub(super) struct HookOutput {
    passed_bytes: usize,
    more_bytes: usize,
    more_lines: usize,
}

impl HookOutput {
    /// Takes what the hook printed. Returns the part that is passed on.
    pub(super) fn take(&mut self, mut text: String) -> Option<String> {
        let mut left = text.len().min(HOOK_OUTPUT_BYTES - self.passed_bytes);
        while !text.is_char_boundary(left) {
            left -= 1;
        }
        let rest = text.split_off(left);
        self.passed_bytes += text.len();
        if !rest.is_empty() {
            // A character that does not fit fills the rest.
            self.passed_bytes = HOOK_OUTPUT_BYTES;
            self.more_bytes = self.more_bytes.saturating_add(rest.len());
            let lines = rest.bytes().filter(|byte| *byte == b'\n').count();
            self.more_lines = self.more_lines.saturating_add(lines);
        }
        (!text.is_empty()).then_some(text)
    }

    /// Ends the hook's output. Returns what is said of the part that was not passed on.
    pub(super) fn end(&mut self) -> Option<String> {
        let Self {
            more_bytes,
            more_lines,
            ..
        } = std::mem::take(self);
        match (more_bytes, more_lines) {
            (0, _) => None,
            (bytes, 0 | 1) => Some(format!("\n… and {bytes} more bytes\n")),
            (_, lines) => Some(format!("\n… and {lines} more lines\n")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_is_passed_on_and_the_rest_is_counted() {
        let mut output = HookOutput::default();
        let line = format!("{}\n", "ä".repeat(500));
        let mut passed = 0;
        for _ in 0..2000 {
            passed += output.take(line.clone()).map_or(0, |text| text.len());
        }
        assert!(passed <= HOOK_OUTPUT_BYTES && passed > HOOK_OUTPUT_BYTES - line.len());
        let lines = 2000 - HOOK_OUTPUT_BYTES / line.len();
        assert_eq!(output.end(), Some(format!("\n… and {lines} more lines\n")));
        // The next hook has its own.
        assert_eq!(output.take(line.clone()), Some(line));
        assert_eq!(output.end(), None);
    }

    #[test]
    fn output_without_lines_is_counted_in_bytes() {
        let mut output = HookOutput::default();
        let text = "a".repeat(HOOK_OUTPUT_BYTES + 7);
        assert_eq!(
            output.take(text).map(|text| text.len()),
            Some(HOOK_OUTPUT_BYTES)
        );
        assert_eq!(output.end().as_deref(), Some("\n… and 7 more bytes\n"));
    }
}
