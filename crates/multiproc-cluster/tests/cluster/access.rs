//! No one else gets in: tokens, passwords, nkeys, credentials, TLS, permissions.

use std::convert::Infallible;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use async_nats::ConnectOptions;
use multiproc::Error;
use multiproc_cluster::{AgentOptions, Cluster};
use nix::sys::prctl::get_no_new_privs;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::Uid;
use nkeys::KeyPair;

use crate::keys::{Operator, credentials, make_certificates};
use crate::server::{Server, Settings};
use crate::support::{
    LEASE, Outcome, TEST_TIMEOUT, agent, agent_with, caller, cannot_run, cannot_run_without, trials,
    wait_until,
};
use crate::work::{begin_and_wait, enlarge, square};

trials![
    a_token_is_needed,
    a_user_and_a_password_are_needed,
    an_nkey_is_needed,
    a_credentials_file_is_needed,
    tls_needs_a_certificate_that_is_trusted,
    the_documented_permissions_suffice,
    an_agents_permissions_do_not_submit,
    an_agent_that_may_not_pull_ends,
    a_pool_whose_consumer_is_refused_leaves_no_stream,
    a_program_with_more_rights_than_its_user_is_no_agent,
];

/// With this variable, the test's program is an agent with that seed.
pub(crate) const AGENT_NKEY: &str = "CLUSTER_TEST_AGENT_NKEY";
const AGENT_URL: &str = "CLUSTER_TEST_AGENT_URL";
/// What who has no credentials is told.
const REFUSAL: &str = "authorization violation";

/// The error of a client that does not get in.
fn refusal(url: &str, options: ConnectOptions) -> Error {
    let error = Cluster::builder(url).connect_options(options).connect().unwrap_err();
    assert!(error.is_disconnected(), "{error}");
    error
}

/// The client is told that its credentials are not those.
fn assert_refused(server: &Server, login: Option<&str>, options: ConnectOptions) {
    let error = refusal(&server.url_as(login), options).to_string();
    assert!(error.contains(REFUSAL), "{error}");
    assert!(login.is_none_or(|login| !error.contains(login)), "{error}");
}

/// An agent of the environment does not get in, says why, and ends.
fn assert_agent_is_refused(url: &str, variables: &[(&str, &str)], text: &str) {
    agent_with(url, "stranger", &std::env::current_exe().unwrap(), variables).fails_with(text);
}

/// The pool works that a client with the server's access has.
fn assert_works(server: &Server) -> Outcome {
    assert_eq!(server.pool("access").map(square, 0..3)?, [0, 1, 4]);
    Ok(())
}

fn a_token_is_needed() -> Outcome {
    let config = "authorization { token: right }".to_owned();
    let server = Server::with(Settings { config, login: Some("right"), ..Settings::default() });
    assert_refused(&server, Some("wrong"), ConnectOptions::new());
    assert_refused(&server, None, ConnectOptions::new());
    assert_agent_is_refused(&server.url_as(Some("wrong")), &[], REFUSAL);
    assert_agent_is_refused(&server.url_as(None), &[], REFUSAL);
    let _agent = server.agent("a");
    assert_works(&server)
}

fn a_user_and_a_password_are_needed() -> Outcome {
    let config = "authorization { user: me, password: right }".to_owned();
    let server = Server::with(Settings { config, login: Some("me:right"), ..Settings::default() });
    for wrong in ["me:wrong", "you:right", "right"] {
        assert_refused(&server, Some(wrong), ConnectOptions::new());
    }
    assert_refused(&server, None, ConnectOptions::new());
    assert_agent_is_refused(&server.url_as(Some("me:wrong")), &[], REFUSAL);
    let _agent = server.agent("a");
    assert_works(&server)
}

fn an_nkey_is_needed() -> Outcome {
    let [key, other] = [KeyPair::new_user(), KeyPair::new_user()];
    let config = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", key.public_key());
    let access = ConnectOptions::with_nkey(key.seed()?);
    let server = Server::with(Settings { config, access, ..Settings::default() });
    assert_refused(&server, None, ConnectOptions::with_nkey(other.seed()?));
    assert_refused(&server, None, ConnectOptions::new());
    let program = std::env::current_exe()?;
    let agent = |seed: &str| {
        let variables = [(AGENT_NKEY, seed), (AGENT_URL, &server.url())];
        agent_with("", "a", &program, &variables)
    };
    agent(&other.seed()?).fails_with(REFUSAL);
    let _agent = agent(&key.seed()?);
    assert_works(&server)
}

/// An agent of a program that has options of its own.
pub(crate) fn agent_with_nkey(seed: &str) -> ExitCode {
    let url = std::env::var(AGENT_URL).unwrap_or_default();
    let options =
        AgentOptions::new(&url).workers(2).connect_options(ConnectOptions::with_nkey(seed.to_owned()));
    let ended: multiproc::Result<Infallible> = multiproc_cluster::agent(options);
    eprintln!("{ended:?}");
    ExitCode::FAILURE
}

fn a_credentials_file_is_needed() -> Outcome {
    let Operator { config, credentials: right } = Operator::new();
    let access = ConnectOptions::with_credentials(&right)?;
    let server = Server::with(Settings { config, access, ..Settings::default() });
    let wrong = credentials(&KeyPair::new_account());
    assert_refused(&server, None, ConnectOptions::with_credentials(&wrong)?);
    assert_refused(&server, None, ConnectOptions::new());
    let folder = tempfile::tempdir()?;
    let [right_file, wrong_file] =
        ["right", "wrong"].map(|name| folder.path().join(name).display().to_string());
    std::fs::write(&right_file, right)?;
    std::fs::write(&wrong_file, wrong)?;
    let variable = "MULTIPROC_AGENT_CREDENTIALS";
    assert_agent_is_refused(&server.url(), &[(variable, &wrong_file)], REFUSAL);
    assert_agent_is_refused(&server.url(), &[(variable, "/nowhere")], "credentials in /nowhere");
    let _agent = agent_with(&server.url(), "a", &std::env::current_exe()?, &[(variable, &right_file)]);
    assert_works(&server)
}

fn tls_needs_a_certificate_that_is_trusted() -> Outcome {
    let [folder, others] = [tempfile::tempdir()?, tempfile::tempdir()?];
    if ![&folder, &others].iter().all(|folder| make_certificates(folder.path())) {
        cannot_run_without("openssl");
        return Ok(());
    }
    let path = folder.path();
    let config = format!("tls {{ cert_file: \"{0}/cert.pem\", key_file: \"{0}/key.pem\" }}", path.display());
    let [ca, other_ca] = [path.join("ca.pem"), others.path().join("ca.pem")];
    let access = ConnectOptions::new().add_root_certificates(ca.clone());
    let server = Server::with(Settings { config, access, has_tls: true, ..Settings::default() });

    let strange = ConnectOptions::new().add_root_certificates(other_ca.clone());
    for options in [strange, ConnectOptions::new()] {
        let error = refusal(&server.url(), options).to_string();
        assert!(error.contains("invalid peer certificate"), "{error}");
    }
    let plain = Server::start();
    let error = refusal(&plain.url().replace("nats:", "tls:"), ConnectOptions::new()).to_string();
    assert!(error.contains("corrupt message"), "{error}");

    let trust = |path: &Path| path.display().to_string();
    assert_agent_is_refused(
        &server.url(),
        &[("SSL_CERT_FILE", &trust(&other_ca))],
        "invalid peer certificate",
    );
    let trusted = [("SSL_CERT_FILE", &*trust(&ca))];
    let _agent = agent_with(&server.url(), "a", &std::env::current_exe()?, &trusted);
    assert_works(&server)
}

/// A server on which callers of the pool `killed` and agents have the permissions of the README's table alone.
fn server_with_documented_permissions() -> Server {
    server_with_permissions(include_str!("../../README.md"))
}

/// The same for the table in this text.
fn server_with_permissions(readme: &str) -> Server {
    let subjects = |cell: &str| {
        let quoted: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!quoted.is_empty(), "{cell}");
        format!("{quoted:?}").replace(".P.", ".killed.")
    };
    let user = |name: &str, row: &str| {
        let mut table = readme.lines();
        let line = table.find_map(|line| line.strip_prefix(row)).unwrap();
        let [publish, subscribe] = [0, 1].map(|cell| subjects(line.split('|').nth(cell).unwrap()));
        format!(
            "{{ user: {name}, password: {name}, permissions: {{ publish: {publish}, subscribe: {subscribe} }} }}"
        )
    };
    let users = [user("caller", "| caller of `P` |"), user("agent", "| agent |")].join("\n");
    let config = format!("authorization {{ users: [ {{ user: admin, password: admin }}\n{users} ] }}");
    Server::with(Settings { config, login: Some("admin:admin"), ..Settings::default() })
}

fn the_documented_permissions_suffice() -> Outcome {
    let server = server_with_documented_permissions();
    let url = server.url_as(Some("caller:caller"));
    let program = std::env::current_exe()?;
    let mut first = agent(&server.url_as(Some("agent:agent")), "a", &program);
    let pool = Cluster::builder(&url).lease(LEASE).connect()?.pool("killed")?;
    assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
    let (length, result) = pool.apply(enlarge, (vec![1; 2_000_000], 2_000_000))?;
    assert_eq!((length, result.len()), (2_000_000, 2_000_000));
    let (_, result) = pool.apply(enlarge, (vec![1; 10], 2_000_000))?;
    assert_eq!(result.len(), 2_000_000);

    // A cancelled task, and one whose host is lost.
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let [one, other] = [0, 1].map(|number| folders[number].path().to_owned());
    let has_begun = |folder: &Path| std::fs::read_dir(folder).is_ok_and(|files| files.count() > 0);
    let task = pool.submit(begin_and_wait, (one.clone(),))?;
    wait_until("it has begun", || has_begun(&one));
    assert!(task.cancel() && task.get().unwrap_err().is_cancelled());
    let mut task = pool.submit(begin_and_wait, (other.clone(),))?;
    wait_until("it has begun", || has_begun(&other));
    first.kill();
    std::fs::write(other.join("go"), "")?;
    let _second = agent(&server.url_as(Some("agent:agent")), "b", &program);
    assert!(task.get_timeout(TEST_TIMEOUT)?.is_some());
    drop(pool);
    assert!(server.streams().is_empty(), "{:?}", server.streams());

    let folder = tempfile::tempdir()?;
    let mut killed = caller(&url, folder.path());
    server.wait_for_object();
    killed.kill();
    wait_until("its stream and its objects are removed", || server.streams().is_empty());
    let log = server.log();
    assert!(!log.contains("Violation"), "{log}");

    let error =
        Cluster::builder(&url).lease(LEASE).connect()?.pool("other")?.apply(square, (1,)).unwrap_err();
    assert!(error.to_string().contains("Permissions Violation"), "{error}");
    Ok(())
}

fn an_agents_permissions_do_not_submit() -> Outcome {
    let server = server_with_documented_permissions();
    let login = Some("agent:agent");
    let error = Cluster::connect(&server.url_as(login))?.pool("access").unwrap_err();
    assert!(error.to_string().contains("Permissions Violation"), "{error}");

    // Nor does its message get into the stream of a caller.
    let pool = server.pool("access");
    let stream = server.streams().remove(0);
    let subject = stream.replace("MULTIPROC_access_", "multiproc.access.") + ".work";
    let publish = async |client: async_nats::Client| {
        client.publish(subject.clone(), "work".into()).await.unwrap();
        client.flush().await.unwrap();
    };
    server.as_client(async |_| {
        let options = ConnectOptions::with_user_and_password("agent".to_owned(), "agent".to_owned());
        publish(options.connect(server.url_as(None)).await.unwrap()).await;
    });
    // The broker has read it when it has logged the refusal.
    wait_until("it is refused", || {
        server.log().lines().any(|line| line.contains("Publish Violation") && line.contains(&subject))
    });
    assert_eq!(server.stored_bytes(&stream), 0);
    server.as_client(async |context| publish(context.client()).await);
    wait_until("who may publish does", || server.stored_bytes(&stream) > 0);
    drop(pool);
    Ok(())
}

/// It would be live and take nothing, so its caller would wait without end.
fn an_agent_that_may_not_pull_ends() -> Outcome {
    let readme = include_str!("../../README.md").replace("`$JS.API.CONSUMER.MSG.NEXT.*.agents`, ", "");
    let server = server_with_permissions(&readme);
    let mut agent = agent(&server.url_as(Some("agent:agent")), "a", &std::env::current_exe()?);
    let pool = Cluster::builder(&server.url_as(Some("caller:caller"))).connect()?.pool("killed")?;
    let task = pool.submit(square, (3,))?;
    agent.fails_with("Permissions Violation");
    drop((task, pool));
    Ok(())
}

fn a_pool_whose_consumer_is_refused_leaves_no_stream() -> Outcome {
    let config = "authorization { users: [ { user: admin, password: admin }, { user: caller, password: caller, \
         permissions: { publish: { deny: \"$JS.API.CONSUMER.>\" } } } ] }";
    let config = config.to_owned();
    let server = Server::with(Settings { config, login: Some("admin:admin"), ..Settings::default() });
    let cluster = Cluster::connect(&server.url_as(Some("caller:caller")))?;
    let error = cluster.pool("refused").unwrap_err();
    assert!(error.to_string().contains("Permissions Violation"), "{error}");
    assert!(server.streams().is_empty(), "{:?}", server.streams());
    Ok(())
}

/// Whoever executes it must not choose what it runs.
fn a_program_with_more_rights_than_its_user_is_no_agent() -> Outcome {
    const USER: u32 = 65_534;
    let folder = tempfile::tempdir()?;
    let flags = statvfs(folder.path())?.flags();
    if !Uid::effective().is_root() || flags.contains(FsFlags::ST_NOSUID) || get_no_new_privs()? {
        cannot_run("only root can make a program with more rights than its user, not everywhere");
        return Ok(());
    }
    let program = folder.path().join("program");
    assert!(Command::new("cp").arg(std::env::current_exe()?).arg(&program).status()?.success());
    for (mode, is_agent) in [(0o755, true), (0o4755, false)] {
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        std::fs::set_permissions(&program, Permissions::from_mode(mode))?;
        // An agent ends at once by that number of workers; what is none lists the tests.
        let mut command = Command::new(&program);
        command
            .arg("--list")
            .env("MULTIPROC_AGENT", "nats://127.0.0.1:1")
            .env("MULTIPROC_AGENT_WORKERS", "x");
        let output = command.uid(USER).gid(USER).stdin(Stdio::null()).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(errors.contains("MULTIPROC_AGENT_WORKERS is no number"), is_agent, "{errors}");
        assert_eq!(output.status.success(), !is_agent, "{errors}");
    }
    Ok(())
}
