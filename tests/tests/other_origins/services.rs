//! The address that each service has, and what of its secrets goes where.

use std::fs;
use std::process::Command;

use darter_tests::Scripted;
use darter_tests::cli::{command, ran};
use darter_tests::need::{Need, need};
use serde_json::Value;
use tempfile::TempDir;

use super::whole;

/// What the daemon is asked for, in place of each service. Nobody else is asked: signatures are made here.
#[test]
fn each_service_has_its_address_and_its_secrets_stay_here() {
    const OPENSSL: Need = Need::Program { name: "openssl", package: "openssl" };
    if !need("each_service_has_its_address_and_its_secrets_stay_here", &[OPENSSL]) {
        return;
    }
    let front = Scripted::start(|_| whole("application/octet-stream", b"bytes"));
    let directory = TempDir::new().unwrap();
    let (out, account) = (directory.path().join("out"), directory.path().join("account.json"));
    fs::write(&account, service_account().to_string()).unwrap();
    let account = account.to_str().unwrap();
    let secret = "c2VjcmV0LW9mLW1pbmU=";
    let check = |args: &[&str], variables: &[(&str, &str)], expected: &str, signature: &str| {
        let mut command = command(&[&["get"], args].concat());
        command.args(["--front", &front.host()]).arg("-o").arg(&out).env_clear().env("HOME", "/nonexistent");
        command.envs(variables.iter().copied());
        let got = ran(command);
        assert_eq!(got.status, 0, "{args:?}: {got:?}");
        let asked = front.asked().last().unwrap().clone();
        let (address, query) = asked.target().split_once('?').unwrap_or((asked.target(), ""));
        assert_eq!(address, expected, "{args:?}");
        assert_eq!(asked.header("X-Dragonfly-Use-P2P"), Some("true"), "{args:?}");
        let mut names: Vec<_> = query.split('&').filter_map(|part| part.split('=').next()).collect();
        names.retain(|name| !name.is_empty());
        names.sort_unstable();
        assert_eq!(names.contains(&signature), !signature.is_empty(), "{args:?}: {names:?}");
        let filter = (!names.is_empty()).then(|| names.join("&"));
        assert_eq!(asked.header("X-Dragonfly-Filtered-Query-Params"), filter.as_deref(), "{args:?}");
        assert!(!format!("{asked:?}{got:?}").contains(secret), "{args:?}: a secret is told");
        assert!(!format!("{got:?}").contains("ignature="), "{args:?}: an address that is signed is shown");
        asked.header("Authorization").map(str::to_owned)
    };
    let aws = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", secret)];
    check(
        &["s3://b/d/k v", "--storage-region", "eu-central-1"],
        &aws,
        "https://b.s3.eu-central-1.amazonaws.com/d/k%20v",
        "X-Amz-Signature",
    );
    check(
        &["s3://b.c/k", "--storage-region", "us-east-1"],
        &aws,
        "https://s3.us-east-1.amazonaws.com/b.c/k",
        "X-Amz-Signature",
    );
    check(
        &["s3://b/k", "--storage-endpoint", "http://10.0.0.5:9000"],
        &aws,
        "http://10.0.0.5:9000/b/k",
        "X-Amz-Signature",
    );
    let with_token = [aws[0], aws[1], ("AWS_SESSION_TOKEN", "t")];
    check(
        &["s3://b/k", "--storage-endpoint", "http://10.0.0.5:9000"],
        &with_token,
        "http://10.0.0.5:9000/b/k",
        "X-Amz-Security-Token",
    );
    check(
        &["s3://b/k", "--storage-region", "us-east-1", "--storage-anonymous"],
        &[],
        "https://b.s3.us-east-1.amazonaws.com/k",
        "",
    );
    check(
        &["gs://b/d/k"],
        &[("GOOGLE_APPLICATION_CREDENTIALS", account)],
        "https://storage.googleapis.com/b/d/k",
        "X-Goog-Signature",
    );
    let azure = [("AZURE_STORAGE_ACCOUNT_NAME", "acc"), ("AZURE_STORAGE_ACCOUNT_KEY", secret)];
    check(&["abs://c/d/k"], &azure, "https://acc.blob.core.windows.net/c/d/k", "sig");
    let ali = [("ALIBABA_CLOUD_ACCESS_KEY_ID", "id"), ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", secret)];
    check(
        &["oss://b/d/k", "--storage-region", "cn-hangzhou"],
        &ali,
        "https://b.oss-cn-hangzhou.aliyuncs.com/d/k",
        "Signature",
    );
    let huawei = [("HUAWEI_CLOUD_ACCESS_KEY_ID", "id"), ("HUAWEI_CLOUD_SECRET_ACCESS_KEY", secret)];
    check(
        &["obs://b/d/k", "--storage-region", "cn-north-4"],
        &huawei,
        "https://b.obs.cn-north-4.myhuaweicloud.com/d/k",
        "Signature",
    );
    let tencent = [("TENCENTCLOUD_SECRET_ID", "id"), ("TENCENTCLOUD_SECRET_KEY", secret)];
    check(
        &["cos://b-1/d/k", "--storage-region", "ap-paris"],
        &tencent,
        "https://b-1.cos.ap-paris.myqcloud.com/d/k",
        "q-signature",
    );
    let token =
        check(&["hf://o/n/d/k"], &[("HF_TOKEN", "hf_x")], "https://huggingface.co/o/n/resolve/main/d/k", "");
    assert_eq!(token.as_deref(), Some("Bearer hf_x"));
}

/// Of Google: with a key that has just been made.
fn service_account() -> Value {
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
        .output();
    let key = String::from_utf8(made.expect("openssl can be executed").stdout).unwrap();
    serde_json::json!({
        "type": "service_account", "project_id": "p", "private_key_id": "1", "private_key": key,
        "client_email": "darter@p.iam.gserviceaccount.com", "client_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token"
    })
}
