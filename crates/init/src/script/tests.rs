//! What psql would see as a statement, and how values get into it.

use proptest::prelude::*;

use super::*;
use crate::lex::tokens;
use crate::plan;

fn variables() -> Variables {
    let mut variables = Variables::default();
    variables.set("PW", "it's\\here");
    variables.set("plain", "app_1");
    variables
}

fn statements(text: &str) -> Vec<Statement> {
    let script = read(text, &variables()).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    let steps = script.steps.into_iter().filter_map(|step| match step {
        Step::Statement(statement) => Some(statement),
        Step::Connect { .. } => None,
    });
    steps.collect()
}

fn sources(text: &str) -> Vec<String> {
    statements(text).into_iter().map(|statement| statement.source).collect()
}

fn sql(text: &str) -> String {
    statements(text).remove(0).sql.reveal().to_owned()
}

fn mistake(text: &str) -> Mistake {
    read(text, &variables()).and_then(plan::parts).unwrap_err().remove(0)
}

#[test]
fn semicolons_inside_something_end_nothing() {
    for whole in [
        "select 'a;b'",
        "select 'it''s; so', \"a;\"\"b\"",
        "select E'\\';'",
        "select e'\\\\'",
        "select U&'\\0441;', N'x;', B'1', X'1f'",
        "select $$;$$, $a$ ; $$ ; $a$",
        "select a$b$c, 1 -- x; 'y",
        "select /* ; /* ; */ ; */ 1",
        "create rule r as on insert to t do (delete from a; delete from b)",
        "create function f() returns int language sql begin atomic; select 1; select 2; end",
        "create or replace procedure p() begin atomic select case when true then 1 end; end",
        "select x::text, a[1:2], '{}'::jsonb ->> 'a'",
        "do $body$ begin raise notice 'x;'; end; $body$",
        "select '\u{e4}\u{f6};\u{1f418}'",
    ] {
        let found = sources(&format!("{whole}\n;\n select 2;"));
        assert_eq!(found.len(), 2, "{whole}: {found:?}");
        // A comment at the end is no part of a statement.
        assert!(whole.starts_with(&found[0]), "{whole}");
        assert_eq!(found[1], "select 2");
    }
}

#[test]
fn the_last_semicolon_may_be_missing_and_nothing_is_no_statement() {
    assert_eq!(sources("select 1"), ["select 1"]);
    assert_eq!(sources(";;\n-- nothing\n/* here */ ; "), Vec::<String>::new());
    assert_eq!(sources("\u{feff}select 1; -- end"), ["select 1"]);
    let found = statements("\n\n-- about\nselect 1;\n\n  select\n 2;");
    assert_eq!([found[0].line, found[1].line], [4, 6]);
}

#[test]
fn what_never_ends_is_named_with_its_line() {
    assert_eq!(mistake("select 1;\nselect 'x;\n").line, 2);
    assert!(mistake("/* /* */").words.contains("a comment begins here"));
    assert!(mistake("do $x$ $y$").words.contains("dollar"));
    assert!(mistake("select \"a").words.contains("name"));
}

#[test]
fn values_are_written_as_their_place_asks() {
    assert_eq!(sql("alter role x password :'PW'"), "alter role x password  E'it''s\\\\here'");
    assert_eq!(sql("select '${PW}!'"), "select 'it''s\\here!'");
    assert_eq!(sql("select E'${PW}'"), "select E'it''s\\\\here'");
    assert_eq!(sql("create role :\"PW\""), "create role \"it's\\here\"");
    assert_eq!(sql("create role ${plain}"), "create role app_1");
    assert_eq!(sql("create role :plain"), "create role app_1");
    assert_eq!(sql("do $$ ${plain} $$"), "do $$ app_1 $$");
    assert_eq!(
        sql("select a[1:n], b::plain, '$' || '{x}'"),
        "select a[1:n], b::plain, '$' || '{x}'"
    );
    assert_eq!(
        sql("select 1 -- ${nothing} :'nothing'\n + 1"),
        "select 1 -- ${nothing} :'nothing'\n + 1"
    );
    assert_eq!(sql("\\set x 'two words' \nselect :'x'"), "select 'two words'");
}

#[test]
fn values_that_could_be_something_else_are_refused() {
    assert!(mistake("select\n ${PW}").words.contains("write :'PW'"));
    assert_eq!(mistake("select\n ${PW}").line, 2);
    assert!(mistake("do $$ '${PW}' $$").words.contains("dollar quotes"));
    assert!(mistake("select :'gone'").words.contains("gone_FILE"));
    for text in ["select :PW", "do $$ ${PW} $$"] {
        assert!(!mistake(text).words.contains("here"), "a value in {text}'s words");
    }
}

#[test]
fn words_of_the_server_lose_the_values() {
    let found = statements("select '${PW}'").remove(0);
    assert_eq!(found.sql.hide("near \"it''s\\here\" or it's\\here"), "near \"***\" or ***");
    assert!(!format!("{found:?}").contains("here'"));
}

#[test]
fn backslash_commands() {
    let script =
        read("\\connect app_db\nselect 1;\n\\c ${plain}\nselect 2 \\gexec\n", &variables());
    let steps = script.unwrap().steps;
    assert_eq!(steps[0], Step::Connect { database: "app_db".into() });
    assert_eq!(steps[2], Step::Connect { database: "app_1".into() });
    assert!(matches!(&steps[3], Step::Statement(last) if last.gexec));
    assert!(mistake("\\i other.sql").words.contains("not known here"));
    assert!(mistake("select 1\n\\connect x").words.contains("semicolon"));
    assert!(mistake("copy t from stdin;\n1\n\\.").words.contains("INSERT"));
}

#[test]
fn parts_are_transactions_and_what_can_not_be_in_one() {
    let text = "create role a; create database b; create table c(); insert into c values (1);
        \\connect b\ncreate extension d; create index concurrently e on c(x); begin; select 1; commit;
        select 2; vacuum; alter system set x = 1;";
    let script = read(text, &variables()).unwrap();
    let parts = plan::parts(script).unwrap();
    let shapes: Vec<_> = parts
        .iter()
        .map(|part| {
            (part.database.as_deref(), part.kind == plan::Kind::Alone, part.statements.len())
        })
        .collect();
    let b = Some("b");
    let expected = [
        (None, false, 1),
        (None, true, 1),
        (None, false, 2),
        (b, false, 1),
        (b, true, 1),
        (b, false, 1),
        (b, false, 1),
        (b, true, 1),
        (b, true, 1),
    ];
    assert_eq!(shapes, expected);
    assert!(mistake("begin; rollback;").words.contains("take back"));
    assert!(mistake("begin isolation level serializable").words.contains("plain BEGIN"));
}

/// Statements without a semicolon outside of anything.
fn statement() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-z]{1,8}",
        "[0-9+*/=<>,.-]{1,3}".prop_filter("no comment", |s| !s.contains("--") && !s.contains("/*")),
        "[a-z;:$ \\\\\"\n]{0,12}".prop_map(|s| format!("'{s}'")),
        "[a-z;:$ '\n]{0,12}".prop_map(|s| format!("\"x{s}\"")),
        "[a-z;' \\\\\"\n]{0,12}".prop_map(|s| format!("$q${s}$q$")),
        "[a-z;' \\\\\"]{0,12}".prop_map(|s| format!("/* {s} /* ; */ */")),
        "[a-z;' \\\\\"$]{0,12}".prop_map(|s| format!("-- {s}\n")),
        "[a-z ,;]{0,9}".prop_map(|s| format!("({s})")),
        "[a-z; ]{0,8}".prop_map(|s| format!("E'\\'{s}'")),
    ];
    proptest::collection::vec(piece, 0..8)
        .prop_map(|pieces| format!("select {}", pieces.join(" ").trim_end_matches('\n')))
}

proptest! {
    #[test]
    fn tokens_tile_any_text(text in "[a-z0-9'\"$;:{}()E/*\\\\ \n\u{e4}-]{0,60}") {
        if let Ok(tokens) = tokens(&text) {
            let mut at = 0;
            for token in tokens {
                prop_assert_eq!(token.at.start, at);
                prop_assert!(token.at.end >= at);
                at = token.at.end;
            }
            prop_assert_eq!(at, text.len());
        }
    }

    #[test]
    fn as_many_statements_come_out_as_went_in(all in proptest::collection::vec(statement(), 1..5)) {
        let text = all.join("\n;");
        let found = sources(&text);
        prop_assert_eq!(found.len(), all.len(), "{:?}", found);
        for (whole, found) in all.iter().zip(found) {
            prop_assert!(whole.starts_with(&found), "{:?} of {:?}", found, whole);
        }
    }
}
