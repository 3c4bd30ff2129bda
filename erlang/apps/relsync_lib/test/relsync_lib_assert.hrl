%% The assertions that the tests use. The header of EUnit is not part of every installation of Erlang.
-compile({parse_transform, eunit_autoexport}).

-define(assert(Expression), ?assertEqual(true, Expression)).
-define(assertNot(Expression), ?assertEqual(false, Expression)).

-define(assertEqual(Expected, Expression),
    ((fun(RelsyncExpected) ->
        case (Expression) of
            RelsyncExpected -> ok;
            RelsyncValue -> error({assert_equal, ?LINE, ??Expression, RelsyncExpected, RelsyncValue})
        end
    end)(Expected))
).

-define(assertMatch(Pattern, Expression),
    ((fun() ->
        case (Expression) of
            Pattern -> ok;
            RelsyncValue -> error({assert_match, ?LINE, ??Expression, ??Pattern, RelsyncValue})
        end
    end)())
).

-define(assertError(Pattern, Expression),
    ((fun() ->
        try Expression of
            RelsyncValue -> error({assert_error, ?LINE, ??Expression, ??Pattern, RelsyncValue})
        catch
            error:Pattern -> ok
        end
    end)())
).
