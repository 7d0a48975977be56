use proptest::prelude::*;

use super::*;
use crate::testing::cpu_time;

fn program(text: &str) -> Program {
    Program::compile(text).unwrap_or_else(|wrong| panic!("{text}: {}", wrong.message))
}

/// JSON of the output, `-` for none, `!` and the message of a failure.
fn run(text: &str, input: &str) -> String {
    let document = read(input).unwrap_or_else(|why| panic!("{input}: {why:?}"));
    let mut variables = <[Val; VARIABLES.len()]>::default();
    variables[0] = document.clone();
    variables[4] = read("17").unwrap();
    match program(text).run(&Input { row: document, variables, bytes: input.len() }) {
        Ok(Some(value)) => write(&value, input.len()).unwrap(),
        Ok(None) => "-".to_owned(),
        Err(failure) => format!("!{}", failure.message),
    }
}

fn refused(text: &str) -> String {
    Program::compile(text).expect_err(text).message
}

#[test]
fn the_prelude_is_read_and_every_function_of_it_compiles() {
    let prelude = prelude();
    assert!(prelude.len() > 60);
    for def in &prelude {
        let args = vec!["."; def.args.len()].join("; ");
        let call = if args.is_empty() { def.name.to_owned() } else { format!("{}({args})", def.name) };
        let text = call.replace("__", "");
        if text == call {
            program(&call);
        }
    }
}

#[test]
fn the_language() {
    let order = r#"{"id":7,"lines":[{"sku":"a","n":2,"price":1.10},{"sku":"b","n":1,"price":2.2}],"tags":["x","y"],"note":null}"#;
    for (text, expected) in [
        (
            ".",
            r#"{"id":7,"lines":[{"n":2,"price":1.10,"sku":"a"},{"n":1,"price":2.2,"sku":"b"}],"note":null,"tags":["x","y"]}"#,
        ),
        (".id", "7"),
        (".lines[0].sku", "\"a\""),
        (".lines[-1].sku", "\"b\""),
        (".lines[5]", "null"),
        (".note.x.y", "null"),
        (".id.x", "!cannot index a number with a string"),
        (".id.x?", "-"),
        (".lines[].sku", "!gives more than one value"),
        ("[.lines[].sku]", r#"["a","b"]"#),
        (".lines | map(.n * .price) | add", "4.4"),
        (".lines | map(select(.n > 1)) | length", "1"),
        ("first(.lines[] | select(.sku == \"b\")) | .n", "1"),
        (".lines[] | select(.sku == \"c\")", "-"),
        (".missing // \"none\"", "\"none\""),
        ("if .id > 5 then \"high\" elif .id > 2 then \"mid\" else \"low\" end", "\"high\""),
        (
            "if .note then 1 end",
            r#"{"id":7,"lines":[{"n":2,"price":1.10,"sku":"a"},{"n":1,"price":2.2,"sku":"b"}],"note":null,"tags":["x","y"]}"#,
        ),
        ("\"order \\(.id): \\(.tags | join(\"+\"))\"", "\"order 7: x+y\""),
        ("{id, first: .tags[0], (.tags[1]): $offset}", r#"{"first":"x","id":7,"y":17}"#),
        (".id as $i | [.lines[] | {sku, $i}] | .[1]", r#"{"i":7,"sku":"b"}"#),
        (". as {id: $a, tags: [$b]} | [$a, $b]", "[7,\"x\"]"),
        ("reduce .lines[] as $line (0; . + $line.n)", "3"),
        ("[foreach .lines[] as $line (0; . + $line.n; [$line.sku, .])]", r#"[["a",2],["b",3]]"#),
        ("def double(f): f * 2; double(.id) + 1", "15"),
        ("def f($x; g): $x + g; f(1; .id)", "8"),
        ("try error(\"no\") catch .", "\"no\""),
        ("error(\"no\")", "!ends with an error of its own"),
        ("(.id | tostring) + \"x\"", "\"7x\""),
        ("label $out | .lines[] | if .n == 1 then ., break $out else empty end | .sku", "\"b\""),
        (".lines[0].n |= . + 1 | .lines[0].n", "3"),
        (".id = 1 | .id", "1"),
        (".id += 1 | .id", "8"),
        ("del(.lines, .tags, .note)", r#"{"id":7}"#),
        ("del(.tags[0, 1]) | .tags", "[]"),
        ("to_entries | map(.key)", r#"["id","lines","note","tags"]"#),
        ("with_entries(select(.value | type == \"number\"))", r#"{"id":7}"#),
        ("[paths(type == \"number\")] | length", "5"),
        ("[.. | numbers] | length", "5"),
        ("getpath([\"lines\", 1, \"sku\"])", "\"b\""),
        ("walk(if type == \"number\" then 0 else . end) | [.id, .lines[0].price]", "[0,0]"),
        (".lines | sort_by(.n) | map(.sku)", r#"["b","a"]"#),
        (".lines | group_by(.n) | map(length)", "[1,1]"),
        (".lines | max_by(.n).sku, min_by(.n).sku", "!gives more than one value"),
        (".lines | [max_by(.n).sku, min_by(.n).sku]", r#"["a","b"]"#),
        ("[1, 1.0, 2] | unique", "[1,2]"),
        ("[3, null, \"a\", true, [1], {\"a\": 1}, false] | sort", r#"[null,false,true,3,"a",[1],{"a":1}]"#),
        ("[range(3)], [range(1; 3)], [range(3; 0; -2)] | length", "!gives more than one value"),
        ("[[range(3)], [range(1; 3)], [range(3; 0; -2)]]", "[[0,1,2],[1,2],[3,1]]"),
        ("[limit(2; range(9))], [skip(7; range(9))] | add", "!gives more than one value"),
        ("[limit(2; range(9)), first(range(9)), last(range(9)), nth(3; range(9))]", "[0,1,0,8,3]"),
        (
            "[any(.lines[]; .n > 1), all(.lines[]; .n > 1), (.tags | any), isempty(empty)]",
            "[true,false,true,true]",
        ),
        ("[.tags | index(\"y\"), contains([\"x\"]), inside([\"x\", \"y\", \"z\"])]", "[1,true,true]"),
        ("[\"a,b\" | split(\",\"), (. / \",\"), length, ascii_upcase]", r#"[["a","b"],["a","b"],3,"A,B"]"#),
        ("[\"  a \" | trim, ltrim, rtrim]", r#"["a","a ","  a"]"#),
        (
            "[\"prefix-x\" | ltrimstr(\"prefix-\"), rtrimstr(\"-x\"), startswith(\"pre\"), endswith(\"y\")]",
            r#"["x","prefix",true,false]"#,
        ),
        ("[\"Größe\" | length, utf8bytelength, .[1:3], (explode | implode)]", r#"[5,7,"rö","Größe"]"#),
        (
            "[\"+49 (0) 151-23\" | gsub(\"[^0-9+]\"; \"\"), test(\"^\\\\+49\"), sub(\"(?<a>[0-9]+)\"; \"<\\(.a)>\")]",
            r#"["+49015123",true,"+<49> (0) 151-23"]"#,
        ),
        (
            "[\"a1b22\" | scan(\"[0-9]+\")], [\"a1b22\" | split(\"[0-9]+\"; null)] | add",
            "!gives more than one value",
        ),
        (
            "[[\"a1b22\" | scan(\"[0-9]+\")], (\"a1b22\" | split(\"[0-9]+\"; null))]",
            r#"[["1","22"],["a","b",""]]"#,
        ),
        ("\"2024-05\" | capture(\"(?<y>[0-9]+)-(?<m>[0-9]+)\") | [.y, .m]", r#"["2024","05"]"#),
        (
            "[@base64 \"x\\(.id)\", (\"eDc=\" | @base64d), @json \"\\(.tags)\", (\"a b/ä\" | @uri)]",
            r#"["xNw==","x7","[\"x\",\"y\"]","a%20b%2F%C3%A4"]"#,
        ),
        (
            "[(\"[1,2.50]\" | fromjson), (.tags | tojson), (\"1.50\" | tonumber)]",
            r#"[[1,2.50],"[\"x\",\"y\"]",1.50]"#,
        ),
        ("[1.5, -1.5 | floor, ceil, round, trunc, abs]", "[1,2,2,1,1.5,-2,-1,-2,-1,1.5]"),
        (
            "[{\"a\":{\"b\":1}} * {\"a\":{\"c\":2}}, ([1,2,1] - [1]), (\"ab\" * 2), ([[1],[2]] | flatten)]",
            r#"[{"a":{"b":1,"c":2}},[2],"abab",[1,2]]"#,
        ),
        (
            "[.id == 7, .id != 7, .id <= 7, (.id > 9 or true), (true and null), (null | not)]",
            "[true,false,true,true,false,true]",
        ),
        ("pick(.lines[0].sku)", r#"{"lines":[{"sku":"a"}]}"#),
        ("[{name: \"a\", value: 1}, {k: \"b\", v: false}] | from_entries", r#"{"a":1,"b":false}"#),
        ("[has(\"id\"), (.tags | has(5)), (.tags | keys)]", "[true,false,[0,1]]"),
        ("$event.id + $offset", "24"),
        ("empty", "-"),
        ("null", "null"),
        ("[true, false, null][0]", "true"),
    ] {
        assert_eq!(run(text, order), expected, "{text}");
    }
}

#[test]
fn numbers_keep_their_digits() {
    let input = r#"{"big":9007199254740993,"price":"123456789012345678901234567890.10","n":12345678901234567890123456789012345678901,"d":0.1,"e":1.10}"#;
    for (text, expected) in [
        (".big", "9007199254740993"),
        (".big + 1", "9007199254740994"),
        ("[.n][0]", "12345678901234567890123456789012345678901"),
        (".n + 1", "!cannot calculate with more than 38 digits without losing some"),
        (".n > .big", "true"),
        (".d + 0.2", "0.3"),
        (".e", "1.10"),
        ("[.e == 1.1, (.e | tostring)]", "[true,\"1.10\"]"),
        (".price | tonumber", "123456789012345678901234567890.10"),
        (".e * 100", "110"),
        ("1 / 3 | . * 3 < 1", "true"),
        ("007 + 1.50", "8.5"),
    ] {
        assert_eq!(run(text, input), expected, "{text}");
    }
}

#[test]
fn messages_hold_no_contents() {
    let input = r#"{"secret":"canary-7","list":["canary-7"],"object":{"canary-7":"canary-7"}}"#;
    for text in [
        ".secret + 1",
        ".secret.x",
        ".object[0]",
        ".list[\"canary\"]",
        ".secret[]",
        "error(.secret)",
        "error(.object)",
        ".object | error",
        ".secret | tonumber",
        ".secret | fromjson",
        ".secret | @base64d | fromjson",
        ".list | implode",
        "path(1)",
        "1 |= 2",
        ".secret |= error",
        ".secret - .object",
        ".secret | test(\"[\" + .)",
        ".object | join(\",\")",
        "[.object] | add + .secret",
        "try error(.secret) catch error(.)",
        ".secret | has(0)",
    ] {
        let said = run(text, input);
        assert!(said.starts_with('!') && !said.contains("canary"), "{text}: {said}");
    }
}

#[test]
fn what_is_not_taken_says_why() {
    for (text, expected) in [
        ("", "this is not jq: expected term at its end"),
        (".a |", "this is not jq: expected term at its end"),
        (".a | )", "this is not jq: expected token before `)`"),
        ("if .a then 1", "this is not jq: expected else or end at its end"),
        ("[1, 2", "this is not jq: expected closing bracket at its end"),
        ("\"a", "this is not jq: expected closing quote at its end"),
        (".a b", "this is not jq: expected nothing before `b`"),
        ("now", "`now` is not available here: an expression depends on nothing but the event"),
        ("env.HOME", "`env` is not available here: an expression depends on nothing but the event"),
        ("$ENV.HOME", "`$ENV` is not available here: an expression depends on nothing but the event"),
        ("input", "`input` is not available here: an expression depends on nothing but the event"),
        ("repeat(.)", "`repeat` could go on for ever"),
        ("limit(3; repeat(1))", "`repeat` could go on for ever"),
        ("until(. > 9; . + 1)", "`until` could go on for ever"),
        ("recurse(.a)", "`recurse` with a filter could go on for ever"),
        ("def f: f; f", "the definition of `f` calls itself, which could go on for ever"),
        ("def f(g): def h: f(g); h; f(1)", "the definition of `f` calls itself, which could go on for ever"),
        ("infinite", "`infinite` is not available here: numbers are exact decimals"),
        ("ascii_downcas", "there is no function `ascii_downcas` (a text is written in double quotes)"),
        ("map", "`map` takes 1 arguments, not 0"),
        ("map(1; 2)", "`map` takes 1 arguments, not 2"),
        ("__tick", "there is no function `__tick`"),
        ("error_empty", "there is no function `error_empty`"),
        ("$headres.x", "there is no variable `$headres`"),
        ("a::b", "there is no function `a::b`"),
        ("import \"a\" as a; .", "this is not jq: expected nothing before `\"a\"`"),
        ("reduce .[] as $x (0)", "`reduce` takes what it begins with and what it does, with a semicolon"),
        ("break $x", "there is no label $x around this `break`"),
        ("test(\"(\")", "this pattern cannot be used: found open group without closing ')'"),
        ("test(\"a\"; \"q\")", "the flags of a pattern are g, i, n, s and x"),
        ("@csv", "`@csv` is not available here"),
        ("def map(f): 1; map(2)", ""),
    ] {
        match Program::compile(text) {
            Ok(_) => assert_eq!(expected, "", "{text}"),
            Err(wrong) => assert!(
                wrong.message.starts_with(expected) && !expected.is_empty(),
                "{text}: {}",
                wrong.message
            ),
        }
    }
    assert!(Program::compile("ascii_downcas").unwrap_err().valid.contains(&"ascii_downcase"));
    for text in [
        "(".repeat(5_000),
        "-".repeat(4_000),
        "[".repeat(300) + &"]".repeat(300),
        "if ".repeat(600),
        "1+".repeat(600) + "1",
    ] {
        assert!(refused(&text).contains("cannot"), "{}", refused(&text));
    }
}

#[test]
fn definitions_that_multiply_are_refused() {
    let definitions: String = (1..25).map(|n| format!("def f{n}: f{0} | f{0}; ", n - 1)).collect();
    let empties: String = (1..25).map(|n| format!("def f{n}: f{0}, f{0}; ", n - 1)).collect();
    let closures = format!("def d(g): g | g; {}.{}", "d(".repeat(40), ")".repeat(40));
    for text in [format!("def f0: .; {definitions} f24"), format!("def f0: empty; {empties} [f24] | length")]
    {
        assert_eq!(refused(&text), "the definitions in this call each other too often");
    }
    assert!(refused(&closures).contains("levels"), "{}", refused(&closures));
}

/// Everything here ends by one of the bounds, and soon.
#[test]
fn what_explodes_or_goes_on_is_bounded() {
    let pipes = |step: &str, times: usize| vec![step; times].join(" | ");
    for text in [
        "[range(1000000000)] | length".to_owned(),
        "reduce range(1e15) as $i (0; $i)".to_owned(),
        "[range(1000) | range(1000) | range(1000)] | length".to_owned(),
        "last(range(1e18))".to_owned(),
        "first(range(1e18) | select(. < 0))".to_owned(),
        "[limit(1e9; range(1e12))] | length".to_owned(),
        "\"a\" * 1000000000".to_owned(),
        "reduce range(100) as $i (\"ab\"; . + .)".to_owned(),
        "reduce range(100) as $i ([1]; . + .)".to_owned(),
        "reduce range(1000) as $i (null; [.])".to_owned(),
        "reduce range(1000) as $i (null; {a: .})".to_owned(),
        "reduce range(1000) as $i ([]; . = [.])".to_owned(),
        "[.[1000000000] = 1] | length".to_owned(),
        ".a[1e17] = 1".to_owned(),
        "[range(30000) | tostring] | sort | unique | group_by(.) | length".to_owned(),
        format!("[{}] | length", pipes("(1, 2)", 60)),
        format!("first({} | empty)", pipes("(1, 2)", 60)),
        format!("[{}] | length", pipes("(1, 2)?", 60)),
        format!("[{}] | length", pipes("(try (1, 2) catch 1)", 45)),
        format!("reduce ({}) as $x (0; 0)", pipes("(1, 2)", 60)),
        format!("[{}] | length", pipes("[1, 2][0, 1, 0]", 25)),
        "[range(300)] | [.[] as $a | .[] as $b | .[] as $c | 1] | length".to_owned(),
        "[[range(1000)] | combine] | length".replace(" | combine", " as $a | $a[] as $x | $a[] as $y | $a[]"),
        "[{a: range(1000), b: range(1000), c: range(1000)}] | .a".to_owned(),
        "[\"\\(range(1000))\\(range(1000))\"] | length".to_owned(),
        "[reduce range(1000) as $x ((range(1000)); .)] | length".to_owned(),
        "[foreach range(100000) as $x (0; . + 1; ., .)] | length".to_owned(),
        "def f: reduce range(100000) as $x (0; .); [f, f, f] | length".to_owned(),
        "[range(60000)] | . - . | length".to_owned(),
        "[range(60000)] | indices([1])| length, (\"ab\" * 100000 | indices(\"a\") | length)".to_owned(),
        "(\"a\" * 100000) | gsub(\"a\"; \"bb\") | length".to_owned(),
        "(\"a\" * 200000) as $t | [range(1000) | $t | test(\"(a*)*b\")] | length".to_owned(),
        "[.. | .. | .. | ..] | length".to_owned() + &" | [range(1000)] | [..]".repeat(20),
        "[paths] | length | [range(1e9)]".to_owned(),
        "reduce range(20000) as $i ({}; . + {($i | tostring): $i}) | [., .] | tojson * 100".to_owned(),
        "[range(1e9)?] | length".to_owned(),
        "first(range(1e9) | try error catch empty)".to_owned(),
        "(range(1e9) | false) // 1".to_owned(),
    ] {
        let Ok(program) = Program::compile(&text) else {
            panic!("{text}: {}", refused(&text));
        };
        let began = cpu_time();
        let failure = program.run(&Input::default()).expect_err(&text);
        assert!(failure.is_limit, "{text}: {failure:?}");
        let took = cpu_time() - began;
        // A debug build: far above what it takes.
        assert!(took.as_secs() < 20, "{text}: {took:?}");
    }
}

/// Programs that nest in one way, so many times.
fn nested(way: usize, times: usize) -> Option<String> {
    let around = |open: &str, inner: &str, close: &str| {
        Some(format!("{}{inner}{}", open.repeat(times), close.repeat(times)))
    };
    let list = |item: &str, between: &str| Some(vec![item; times].join(between));
    match way {
        0 => around("(", ".", ")"),
        1 => around("[", ".[0]?", "]"),
        2 => list(".[0]?", " | "),
        3 => list(".", ","),
        4 => list("1", "+"),
        5 => around("map(", ".", ")"),
        6 => around("first(", ".[]?", ")"),
        7 => around("try (", "error", ")"),
        8 => around("if . then ", ".", " else . end"),
        9 => around(". as $x | ", "[..]", ""),
        10 => around("reduce (1, 2) as $x (0; ", ".", ")"),
        11 => around("label $x | ", "[.., .]", ""),
        12 => around("(", "..", ") |= ."),
        13 => around("{a: ", "..", "}"),
        14 => around("\"\\(", ".", ")\""),
        15 => around(". // (", ".", ")"),
        16 => {
            let defs: String = (1..=times).map(|n| format!("def f{n}: [[f{}]]; ", n - 1)).collect();
            Some(format!("def f0: .; {defs} f{times}"))
        }
        17 => around("with_entries(", ".", ")?"),
        18 => around("(.[], .) | ", "[..]", ""),
        19 => Some(format!("if 0 then 1{} end", " elif . then 2".repeat(times))),
        20 => Some(format!("{{{}}}", (0..times).map(|n| format!("a{n}: .")).collect::<Vec<_>>().join(","))),
        21 => Some(format!("walk({})", vec!["."; times].join("|"))),
        22 => Some(format!("[paths({})]", vec!["."; times].join("|"))),
        23 => Some(format!("tojson | fromjson | [., .] | sort{}", "| [.[]]".repeat(times))),
        _ => None,
    }
}

/// What the bounds let pass fits onto the stack of a thread.
#[test]
fn the_deepest_program_on_the_deepest_document_does_not_overflow_the_stack() {
    let run = || {
        let depth = budget::DEPTH_MAX as usize;
        let document = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(&format!("[{document}]")).is_err_and(|why| why == Unreadable::TooDeep));
        let row = read(&document).unwrap();
        for way in 0.. {
            let Some(first) = nested(way, 1) else { break };
            program(&first);
            let long = refused(&nested(way, 500).unwrap());
            assert!(long.contains("more than") || long.contains("longer than"), "{first}: {long}");
            let deepest = (1..400).rev().find_map(|times| Program::compile(&nested(way, times)?).ok());
            let input = Input { row: row.clone(), bytes: document.len(), ..Input::default() };
            let outcome = deepest.unwrap().run(&input);
            let stack = budget::Limit::Stack.message();
            assert!(!outcome.is_err_and(|failure| failure.message == stack), "{first}");
        }
    };
    std::thread::Builder::new().stack_size(THREAD_STACK).spawn(run).unwrap().join().unwrap();
}

#[test]
fn a_document_of_any_size_can_be_read_and_passed_on() {
    let many = format!("[{}1]", "1,".repeat(300_000));
    assert_eq!(run("length", &many), "300001");
    assert_eq!(run(".", &many), many);
    let fields: Vec<String> = (0..50_000).map(|n| format!("\"{n:05}\":{n}")).collect();
    let fields = format!("{{{}}}", fields.join(","));
    assert_eq!(run(".", &fields), fields);
    assert_eq!(run("map_values(. + 1) | .[\"00009\"]", &fields), "10");
    for (text, why) in [
        (r#"{"a":1,"a":2}"#, Unreadable::Twice),
        (r#""\ud800""#, Unreadable::Malformed),
        ("[1,]", Unreadable::Malformed),
        ("{\"a\"}", Unreadable::Malformed),
        ("1 2", Unreadable::Malformed),
        ("nul", Unreadable::Malformed),
        ("\"a", Unreadable::Malformed),
        ("\"a\\", Unreadable::Malformed),
        ("", Unreadable::Malformed),
    ] {
        assert_eq!(read(text).expect_err(text), why, "{text}");
    }
}

fn jq_like() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        Just(".".to_owned()),
        Just("..".to_owned()),
        Just(".a".to_owned()),
        Just(".[]".to_owned()),
        Just(".[0]".to_owned()),
        Just(".[1:]".to_owned()),
        Just("1".to_owned()),
        Just("-2.5".to_owned()),
        Just("\"x\"".to_owned()),
        Just("null".to_owned()),
        Just("length".to_owned()),
        Just("add".to_owned()),
        Just("keys".to_owned()),
        Just("tojson".to_owned()),
        Just("sort".to_owned()),
        Just("$event".to_owned()),
        Just("empty".to_owned()),
        Just("error".to_owned()),
        Just("type".to_owned()),
        Just("paths".to_owned()),
        Just("to_entries".to_owned()),
        Just("reverse".to_owned()),
        Just("flatten".to_owned()),
        Just("tostring".to_owned()),
        Just("explode".to_owned()),
    ];
    atom.prop_recursive(6, 40, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        let three = (inner.clone(), inner.clone(), inner.clone());
        prop_oneof![
            (
                two.clone(),
                prop::sample::select(vec![
                    "|", ",", "+", "-", "*", "/", "%", "==", "<", "//", "and", "or", "|=", "=", "+=", "//="
                ])
            )
                .prop_map(|((a, b), op)| format!("({a} {op} {b})")),
            (
                inner.clone(),
                prop::sample::select(vec![
                    "map",
                    "select",
                    "first",
                    "last",
                    "path",
                    "del",
                    "walk",
                    "map_values",
                    "sort_by",
                    "group_by",
                    "any",
                    "with_entries",
                    "isempty",
                    "pick",
                    "has",
                    "indices",
                    "split",
                    "range"
                ])
            )
                .prop_map(|(a, f)| format!("{f}({a})")),
            (
                two.clone(),
                prop::sample::select(vec!["limit", "range", "nth", "sub", "setpath", "any", "test"])
            )
                .prop_map(|((a, b), f)| format!("{f}({a}; {b})")),
            inner.clone().prop_map(|a| format!("[{a}]")),
            two.clone().prop_map(|(a, b)| format!("{{a: {a}, (\"b\", \"c\"): {b}}}")),
            two.clone().prop_map(|(a, b)| format!("try ({a}) catch ({b})")),
            three.clone().prop_map(|(a, b, c)| format!("if {a} then {b} else {c} end")),
            three.clone().prop_map(|(a, b, c)| format!("reduce ({a}) as $x ({b}; {c})")),
            three.prop_map(|(a, b, c)| format!("foreach ({a}) as [$x] ({b}; {c}; .)")),
            two.clone().prop_map(|(a, b)| format!("({a}) as $v | {b}")),
            two.clone().prop_map(|(a, b)| format!("def f(g): {a} | g; f({b})")),
            two.clone().prop_map(|(a, b)| format!("label $l | ({a}), ({b} | break $l)")),
            two.prop_map(|(a, b)| format!("({a})[{b}]?")),
            inner.prop_map(|a| format!("\"\\({a})\"")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(400), ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_compiler_panic(text in r#"[.$"\[\](){}\\ a-e0-9|?,;:=+*/-]{0,40}"#) {
        let _ = Program::compile(&text);
    }

    #[test]
    fn no_program_panics_or_goes_on(text in jq_like(), document in prop::sample::select(vec![
        "null", "1", "\"abc\"", "[1,[2,{\"a\":3}],\"x\"]", r#"{"a":[1,2,{"a":null}],"b":"x","c":{"a":true}}"#,
    ])) {
        if let Ok(program) = Program::compile(&text) {
            let row = read(document).unwrap();
            let mut input = Input { row: row.clone(), bytes: document.len(), ..Input::default() };
            input.variables[0] = row;
            if let Ok(Some(value)) = program.run(&input)
                && let Ok(json) = write(&value, document.len())
            {
                prop_assert!(read(&json).is_ok(), "{}", json);
            }
        }
    }
}

#[test]
fn the_reference_lists_every_function() {
    let reference = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/REFERENCE.md");
    let text = std::fs::read_to_string(reference).unwrap();
    let (_, list) = text.split_once("of the functions `").unwrap();
    let (names, rest) = list.split_once("` and `").unwrap();
    let (formats, _) = rest.split_once('`').unwrap();
    let mut listed: Vec<&str> = names.split(' ').chain(formats.split(' ')).collect();
    listed.sort_unstable();
    let prelude = prelude();
    let mut there = check::Known::new(&prelude).names();
    there.retain(|name| !["true", "false", "null"].contains(name));
    assert_eq!(listed, there);
}

/// Numbers of any length can be passed on: what writes, compares or copies one pays for its digits.
#[test]
fn long_numbers_are_paid_for() {
    let digits = "7".repeat(200_000);
    let lines = vec![r#"{"sku":"a"}"#; 1_000].join(",");
    let document = format!(r#"{{"rate":{digits},"lines":[{lines}]}}"#);
    let row = read(&document).unwrap();
    let mut input = Input { row: row.clone(), bytes: document.len(), ..Input::default() };
    input.variables[0] = row;
    for text in [
        "[.lines[] | {sku, rate: $event.rate}]",
        "[.lines[] | -$event.rate | 1]",
        "[.lines[] | $event.rate | abs | 1]",
        "[.lines[] | -$event.rate | length | 1]",
        "[.lines[] | $event.rate > 1.5]",
        "[.lines[] | [$event.rate] == [$event.rate]]",
        "[.lines[] | try ($event.rate + 1) catch 1]",
        "[.lines[] | .sku * $event.rate]",
        "[.lines as $lines | .lines[] | $lines[$event.rate]]",
        "[.lines as $lines | .lines[] | $lines | has($event.rate)]",
        "[.lines[] | try ($event.rate | floor) catch 1]",
        "[.lines[] | \"\\($event.rate)\" | 1]",
    ] {
        let outcome =
            program(text).run(&input).and_then(|value| write(&value.unwrap_or_default(), document.len()));
        assert!(
            outcome.as_ref().is_err_and(|failure| failure.is_limit),
            "{text}: {:?}",
            outcome.map(|json| json.len())
        );
    }
    assert_eq!(run(".rate", &document), digits);
    assert_eq!(run("-.rate", &document), format!("-{digits}"));
}

#[test]
fn many_matches_in_prose_are_affordable() {
    let prose = "These  are words,\n and some more. ".repeat(60);
    let document = serde_json::to_string(&prose).unwrap();
    let once = prose.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(run("gsub(\"\\\\s+\"; \" \") | rtrimstr(\" \")", &document), format!("{once:?}"));
    assert_eq!(run("[scan(\"[a-z]+\")] | length", &document), "360");
    assert_eq!(run("[scan(\"[^\\\\s]+\")] | length", &document), "360");
    assert_eq!(run("gsub(\"\\\\.\"; \"\") | length", &document), (prose.len() - 60).to_string());
}

/// What each match looks at beyond itself is paid for.
#[test]
fn patterns_and_texts_that_nearly_match_are_paid_for() {
    for text in [
        "(\"a\" * 20000) | [scan(\"a.*z|a\")] | length",
        "(\"a\" * 20000) | [scan(\"a(.*z)?\")] | length",
        "(\"a\" * 20000) | [scan(\"(a.*z)?a\")] | length",
        "(\"a\" * 20000) | [scan(\"a+?\")] | length",
        "(\"a\" * 20000) | index((\"a\" * 10000) + \"b\")",
    ] {
        let failure = program(text).run(&Input::default()).expect_err(text);
        assert!(failure.is_limit, "{text}: {failure:?}");
    }
}
