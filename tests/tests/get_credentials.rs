//! `darter get` of what is not public: tokens are asked for where the registry says, with its own password and no other.

use std::fs;

use darter::demo::registry::Digest;
use darter_tests::Getter;
use darter_tests::cli::ran;
use darter_tests::one_answer::{OneAnswer, answer, header};
use serde_json::json;
use tempfile::TempDir;

#[test]
fn a_token_is_asked_for_where_the_registry_says_and_with_its_own_password() {
    let realm = OneAnswer::start(|head| {
        assert_eq!(header(head, "authorization"), Some("Basic bWU6c2VjcmV0"), "{head}");
        answer("200 OK", "", br#"{"token":"the-token"}"#)
    });
    let bytes = vec![7; 1000];
    let (digest, served, realm_address) = (Digest::of(&bytes), bytes.clone(), realm.address);
    let front = OneAnswer::start(move |head| match header(head, "authorization") {
        Some("Bearer the-token") => answer("200 OK", "", &served),
        Some(other) => panic!("not for the front: {other}"),
        None => {
            let realm = format!(
                "Bearer realm=\"http://{realm_address}/token\",service=\"r\",scope=\"repository:a:pull\""
            );
            answer("401 Unauthorized", &format!("WWW-Authenticate: {realm}\r\n"), b"")
        }
    });
    let getter = Getter::new(front.address);
    let docker = TempDir::new().expect("a temporary directory");
    let auths = json!({ "auths": {
        "r.example": { "auth": "bWU6c2VjcmV0" },
        "other.example": { "auth": "b3RoZXI6c2VjcmV0" },
    } });
    fs::write(docker.path().join("config.json"), auths.to_string()).expect("it can be written");
    let mut command = getter.command(&[&format!("http://r.example/v2/a/blobs/{digest}")]);
    let got = ran({
        command.env("DOCKER_CONFIG", docker.path());
        command
    });
    assert_eq!(got.status, 0, "{got:?}");
    getter.holds(&bytes);
    assert!(
        realm.heads()[0].starts_with("GET /token?service=r&scope=repository%3Aa%3Apull HTTP/1.1\r\n"),
        "{:?}",
        realm.heads()
    );
    assert_eq!(front.heads().len(), 2);
    assert_eq!(header(&front.heads()[1], "x-dragonfly-registry"), Some("http://r.example"));
}

#[test]
fn a_password_for_a_registry_with_tls_is_not_sent_without() {
    let realm = OneAnswer::start(|head| {
        assert_eq!(header(head, "authorization"), None, "{head}");
        answer("401 Unauthorized", "", b"")
    });
    let realm_address = realm.address;
    let front = OneAnswer::start(move |head| {
        assert_eq!(header(head, "authorization"), None, "{head}");
        answer(
            "401 Unauthorized",
            &format!("WWW-Authenticate: Bearer realm=\"http://{realm_address}/token\"\r\n"),
            b"",
        )
    });
    let getter = Getter::new(front.address);
    let docker = TempDir::new().expect("a temporary directory");
    fs::write(docker.path().join("config.json"), r#"{"auths":{"r.example":{"auth":"bWU6c2VjcmV0"}}}"#)
        .expect("it can be written");
    let mut command = getter.command(&["r.example/app"]);
    let got = ran({
        command.env("DOCKER_CONFIG", docker.path());
        command
    });
    got.failed(1, &["gives out tokens at", "401", "docker login r.example"]);
    assert_eq!(realm.heads().len(), 1);
}
