%% @doc What the target evaluates before any module of ours is there.
%%
%% The build turns the function's body into abstract expressions, which run under `erl_eval' on any OTP from 23
%% on: so it calls no local function, uses no record, and calls no module but those of kernel, stdlib and crypto.
-module(relsync_boot).
-export([boot/0]).

boot() ->
    erlang:system_info(otp_release).
