//! What cannot run on a machine is skipped, and fails where all must run.

use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use crate::support::{Outcome, trials};

trials![a_test_without_its_program_is_skipped, a_test_that_must_run_fails_without_its_program];

const TLS: &str = "tls_needs_a_certificate_that_is_trusted";
const NETWORK: &str = "each_item_has_one_result_whatever_the_links_do";

/// Whether a test passes on a machine that has only these programs, and says so.
fn passes(test: &str, programs: &[&str], variables: &[(&str, &str)], why: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    for program in programs {
        let paths = std::env::var_os("PATH").unwrap();
        let mut paths = std::env::split_paths(&paths).map(|path| path.join(program));
        symlink(paths.find(|path| path.exists()).unwrap(), folder.path().join(program)).unwrap();
    }
    let mut tests = Command::new(std::env::current_exe().unwrap());
    tests.args(["--exact", test]).env("PATH", folder.path());
    tests.env_remove("CI").env_remove("MULTIPROC_TEST_ALL").envs(variables.iter().copied());
    let output = tests.stdin(Stdio::null()).output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    let what = if output.status.success() { "skipped: " } else { "is set: " };
    assert!(said.contains(&format!("{what}{why}")), "{said}");
    output.status.success()
}

fn a_test_without_its_program_is_skipped() -> Outcome {
    assert!(passes(TLS, &["nats-server"], &[], "this needs openssl"));
    assert!(passes(TLS, &[], &[], "this needs nats-server"));
    Ok(())
}

fn a_test_that_must_run_fails_without_its_program() -> Outcome {
    let all = [("MULTIPROC_TEST_ALL", "1")];
    assert!(!passes(NETWORK, &["nats-server"], &all, "network namespaces"));
    for variables in [all, [("CI", "1")]] {
        assert!(!passes(TLS, &["nats-server"], &variables, "this needs openssl"));
        assert!(!passes(TLS, &[], &variables, "this needs nats-server"));
    }
    Ok(())
}
