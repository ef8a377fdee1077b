//! What a web server's page of a directory links to: the pages that nginx, Apache, Caddy and Python make. Pure.

use std::collections::BTreeSet;

use url::Url;

/// Entries of one page.
const ENTRIES_MAX: usize = 100_000;

/// An entry of a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Entry {
    pub(super) url: Url,
    /// As it would be written, decoded: not looked at yet.
    pub(super) name: String,
    pub(super) is_directory: bool,
}

/// The entries right below a directory, each once; what leads elsewhere is left out, such as the columns by which a page can
/// be sorted. `None`: more than any directory has.
pub(super) fn entries(directory: &Url, html: &str) -> Option<Vec<Entry>> {
    let mut found = BTreeSet::new();
    for link in links(html) {
        if let Some(entry) = entry(directory, &link) {
            found.insert(entry);
            if found.len() > ENTRIES_MAX {
                return None;
            }
        }
    }
    Some(found.into_iter().collect())
}

fn entry(directory: &Url, link: &str) -> Option<Entry> {
    let url = directory.join(link).ok()?;
    if url.origin() != directory.origin() || url.query().is_some() || url.fragment().is_some() {
        return None;
    }
    let below = url.path().strip_prefix(directory.path())?;
    let (part, is_directory) = match below.strip_suffix('/') {
        Some(part) => (part, true),
        None => (below, false),
    };
    if part.is_empty() || part.contains('/') {
        return None;
    }
    let name = decoded(part)?;
    // `%2F` would be a directory that the page does not name.
    (!name.contains('/')).then_some(Entry { url, name, is_directory })
}

/// The values of `href` of all `a`, as they are written.
fn links(html: &str) -> impl Iterator<Item = String> + '_ {
    let mut rest = html;
    std::iter::from_fn(move || {
        loop {
            let at = find(rest, "<a")?;
            let tag = &rest[at + 2..];
            if !tag.starts_with(|c: char| c.is_ascii_whitespace()) {
                rest = tag;
                continue;
            }
            let Some(end) = tag_end(tag) else {
                rest = "";
                continue;
            };
            rest = &tag[end..];
            if let Some(value) = attribute(&tag[..end], "href") {
                return Some(unescaped(value));
            }
        }
    })
}

/// Where an ASCII word is, in either case.
fn find(text: &str, word: &str) -> Option<usize> {
    text.as_bytes().windows(word.len()).position(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

/// The `>` that ends a tag: not one within quotes.
fn tag_end(tag: &str) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in tag.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    None
}

fn attribute<'a>(tag: &'a str, wanted: &str) -> Option<&'a str> {
    let mut rest = tag;
    loop {
        rest = rest.trim_ascii_start();
        let end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        if rest.is_empty() {
            return None;
        }
        let (name, after) = rest.split_at(end);
        let Some(value) = after.trim_ascii_start().strip_prefix('=') else {
            // At least one character was a name or a space.
            rest = if name.is_empty() { &rest[1..] } else { after };
            continue;
        };
        let value = value.trim_ascii_start();
        let (value, after) = match value.as_bytes().first() {
            Some(quote @ (b'"' | b'\'')) => value[1..].split_once(char::from(*quote))?,
            _ => value.split_at(value.find(|c: char| c.is_ascii_whitespace()).unwrap_or(value.len())),
        };
        if name.eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
}

/// The references that those pages use within an attribute.
fn unescaped(value: &str) -> String {
    let named = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&#x27;", "'"),
        ("&#43;", "+"),
        ("&#x3D;", "="),
    ];
    let plain = named
        .iter()
        .fold(value.to_owned(), |text, (reference, character)| text.replace(reference, character));
    plain.replace("&amp;", "&")
}

/// Without percent-encoding; `None` where that is no text.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'%' => {
                let digits = after.get(..2)?;
                bytes.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
                rest = &after[2..];
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(html: &str, expected: &[&str]) {
        let directory = "http://h:81/pub/".parse().unwrap();
        let found = entries(&directory, html).unwrap();
        let mut seen: Vec<_> = found
            .iter()
            .map(|entry| format!("{}{}", entry.name, if entry.is_directory { "/" } else { "" }))
            .collect();
        seen.sort();
        assert_eq!(seen, expected, "{html}");
    }

    #[test]
    fn the_pages_that_servers_make() {
        check(
            "<html><head><title>Index of /pub/</title></head><body><h1>Index of /pub/</h1><hr><pre><a href=\"../\">../</a>\n\
             <a href=\"d/\">d/</a>  27-Nov-2026 20:00  -\n<a href=\"a%20b.bin\">a b.bin</a>  27-Nov-2026 20:00  5\n</pre>",
            &["a b.bin", "d/"],
        );
        check(
            "<li><a href=\"%C3%A4.txt\">ä.txt</a></li>\n<li><a href=\"x%26y\">x&amp;y</a></li><li><a href='e/'>e/</a></li>",
            &["e/", "x&y", "ä.txt"],
        );
        check(
            "<tr><th><a href=\"?C=N;O=D\">Name</a></th></tr><tr><td><a href=\"/\">Parent</a></td></tr>\
             <tr><td><A HREF=\"/pub/f.tar\">f.tar</A></td></tr><tr><td><a class=x href=./g.tar>g</a><a href=\"g.tar\">g</a>",
            &["f.tar", "g.tar"],
        );
        check("<a href=\"a&amp;b\">", &["a&b"]);
    }

    #[test]
    fn what_leads_elsewhere_is_left_out() {
        check(
            "<a href=\"http://evil/pub/x\"><a href=\"//evil/pub/x\"><a href=\"../x\"><a href=\"/x\"><a href=\"d/x\"><a href=\"x?y\">\
             <a href=\"x#y\"><a href=\"\"><a href=\".\"><a href=\"javascript:x\"><a href=\"mailto:x\"><abbr href=\"x\"><a name=\"x\">\
             <a href=\"%2e%2e/x\"><a href=\"a%2Fb\"><a href=\"%FF\"><a href=\"%4\"",
            &[],
        );
    }

    proptest! {
        #[test]
        fn any_page_is_read(html in "(<a ?|href|=|\"|'|>|%|/|\\.|\\PC){0,40}") {
            let directory = "http://h/pub/".parse().unwrap();
            for entry in entries(&directory, &html).unwrap_or_default() {
                prop_assert!(entry.url.as_str().starts_with("http://h/pub/"));
                prop_assert!(!entry.name.contains('/'));
            }
        }
    }
}
