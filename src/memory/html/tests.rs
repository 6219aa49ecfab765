//! Pages, good and bad.

use proptest::prelude::*;

use super::*;

#[test]
fn headings_paragraphs_lists_tables_and_code_are_read() {
    let page = "<!DOCTYPE html><html><head><title>The  boiler</title><style>p { color: red }</style></head><body>
        <nav><ul><li><a href=/>Home</a></ul></nav>
        <h1>Service &amp; <em>repair</em></h1>
        <p>It was re<b>paired</b> in
           October&nbsp;2024.<br>By Mrs. Okafor.
        <h2>Parts</h2><ul><li>pump<li><p>valve &#x2764;</p></ul>
        <table><tr><th>part<th>price</tr><tr><td>pump</td><td>40</td></tr></table>
        <pre class=sh>\n  run <b>it</b>\n    twice &lt; 3\n</pre>
        <script>if (a < b) { document.write('<p>no</p>') }</script>
        <svg><title>drawing</title></svg>end</body>";
    assert_eq!(
        text(page),
        "# The boiler\n\n# Service & repair\n\nIt was repaired in October 2024.\nBy Mrs. Okafor.\n\n## Parts\n\n- pump\n- valve ❤\n\n\
         part | price\npump | 40\n\n```\n  run it\n    twice < 3\n```\n\nend\n"
    );
}

#[test]
fn what_is_empty_leaves_no_trace_and_mistakes_lose_no_text() {
    for (page, expected) in [
        ("", ""),
        ("<p> </p><h1></h1><ul><li></ul><pre>\n</pre>", ""),
        ("plain text", "plain text\n"),
        ("</p></pre>a</div><b>b<i>c</b>d", "a\nbcd\n"),
        ("a<pre>code", "a\n\n```\ncode\n```\n"),
        ("<pre>```</pre>b", "````\n```\n````\n\nb\n"),
        ("a<ul><li></ul><p>b<li><div>c<p>d", "a\n\nb\n- c\n\nd\n"),
        ("<nav>a<nav>b</nav>c</nav>d", "d\n"),
        ("<svg/>a<!-- b --><p>c", "a\n\nc\n"),
        ("co&shy;operate 1 < 2 & <3", "cooperate 1 < 2 & <3\n"),
        ("<td>a<td>b<td>c", "a | b | c\n"),
    ] {
        assert_eq!(text(page), expected, "{page}");
    }
}

#[test]
fn a_page_is_known_by_its_name_or_its_beginning() {
    assert!(is_named("/a/b.HTML") && is_named("x.htm") && !is_named("html") && !is_named("a.html.txt"));
    assert!(begins("\u{FEFF}\n<!DOCTYPE HTML PUBLIC") && begins("<html lang=en>"));
    assert!(!begins("# <html>") && !begins("<") && !begins("é"));
}

proptest! {
    #[test]
    fn any_soup_of_tags_is_read(
        pieces in prop::collection::vec(
            prop_oneof![
                "</?(p|h[1-7]|li|pre|td|title|nav|script|svg|textarea|style|br|div|xmp|plaintext|b)( [a-z]{0,2}=?[\"'x]?)?/?>",
                "[ \t\na-z<>&#;!/\"'=é`-]{0,8}",
                "<!--|-->|<!\\[CDATA\\[|\\]\\]>|<!doctype|&(amp|lt|nGt|#x?[0-9a-f]{1,7});?",
            ],
            0..40,
        ),
    ) {
        let page = pieces.concat();
        let text = text(&page);
        prop_assert!(text.len() <= 16 * page.len() + 1, "{} bytes of {}", text.len(), page.len());
        prop_assert!(text.is_empty() || (text.ends_with('\n') && !text.trim().is_empty()), "{text:?}");
    }

    #[test]
    fn words_outside_of_tags_are_all_there_in_order(words in prop::collection::vec("[a-z]{1,6}", 0..30)) {
        let tags = ["<p>", "</div> ", "<li>", " <b>", "<h2>", "</h2>", "<td>", "<br/>"];
        let spaced = words.iter().enumerate().flat_map(|(i, word)| [tags[i % tags.len()], " ", word, " "]);
        let page: String = spaced.collect();
        let text = text(&page);
        let read: Vec<&str> = text.split(|c: char| !c.is_ascii_lowercase()).filter(|word| !word.is_empty()).collect();
        prop_assert_eq!(read, words);
    }
}
