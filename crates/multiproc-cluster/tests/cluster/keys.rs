//! Certificates and credentials, made for one test.

use std::path::Path;
use std::process::{Command, Stdio};

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;

/// What an operator's server is set up with, and the file of a user who may do everything in its one account.
pub(crate) struct Operator {
    pub(crate) config: String,
    pub(crate) credentials: String,
}

impl Operator {
    pub(crate) fn new() -> Self {
        let [operator, account, root] =
            [KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account()];
        let token = sign(&operator, &operator, r#"{"type":"operator","version":2}"#);
        let all = r#"{"limits":{"subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,
            "conn":-1,"leaf":-1,"mem_storage":-1,"disk_storage":-1,"streams":-1,"consumer":-1},
            "type":"account","version":2}"#;
        let none = r#"{"limits":{"subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,
            "conn":-1,"leaf":-1},"type":"account","version":2}"#;
        let config = format!(
            "operator: {token}\nsystem_account: {root}\nresolver: MEMORY\n\
             resolver_preload: {{ {account}: {accounts}\n {root}: {roots} }}",
            root = root.public_key(),
            account = account.public_key(),
            accounts = sign(&operator, &account, all),
            roots = sign(&operator, &root, none),
        );
        Self { config, credentials: credentials(&account) }
    }
}

/// The file of a new user whom that account has signed.
pub(crate) fn credentials(account: &KeyPair) -> String {
    let user = KeyPair::new_user();
    let token = sign(account, &user, r#"{"subs":-1,"data":-1,"payload":-1,"type":"user","version":2}"#);
    format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    )
}

/// What the issuer claims of a subject, as a token.
fn sign(issuer: &KeyPair, subject: &KeyPair, claims: &str) -> String {
    let head = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let (issuer_key, subject_key) = (issuer.public_key(), subject.public_key());
    let body = format!(
        r#"{{"jti":"{subject_key}","iat":1700000000,"iss":"{issuer_key}","name":"test","sub":"{subject_key}","nats":{claims}}}"#
    );
    let signed = format!("{head}.{}", BASE64URL_NOPAD.encode(body.as_bytes()));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// Makes `ca.pem`, `key.pem` and `cert.pem` of 127.0.0.1 in a folder. False without `openssl`.
pub(crate) fn make_certificates(folder: &Path) -> bool {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority = ["-x509", "-days", "2", "-subj", "/CN=test", "-keyout", "ca.key", "-out", "ca.pem"];
    let host = [
        "-x509",
        "-days",
        "2",
        "-subj",
        "/CN=host",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    let request = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.arg("req").args(key).args(arguments).current_dir(folder).stdout(Stdio::null());
        command.output().map(|output| assert!(output.status.success(), "{output:?}")).is_ok()
    };
    request(&authority) && request(&host)
}
