//! The connection to the broker, and whether it is there.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ClientError, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerError};
use multiproc::pool::encoded;
use multiproc::{Error, Result};
use percent_encoding::percent_decode_str;
use tokio::sync::watch;

/// How long a request to the broker may take.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the client asks whether the broker is there. After two unanswered questions it connects again.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// The longest pause between two attempts to connect again.
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// How long a client may take to connect again once the broker is there: the longest pause, and as long to connect.
pub(crate) const RETURN_TIME: Duration = MAX_BACKOFF.saturating_mul(2);

/// A server with a lower `max_payload` is refused: its messages would hardly have room for more than their headers.
const MIN_MAX_PAYLOAD: usize = 2 * MAX_HEADER_LEN;
/// More than what a message has besides items or results.
const MAX_HEADER_LEN: usize = 4096;
/// What is longer goes in parts. The client's question waits behind a message, and two intervals later the client gives
/// the connection up: so a message passes a link of 32 KiB a second.
const MAX_MESSAGE_LEN: usize = 128 * 1024;

/// Shorter items or results are not what ends a connection.
pub(crate) const SMALL_LEN: usize = 16 * 1024;

#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) context: Context,
    /// Counts connections: odd while there is one.
    pub(crate) epoch: watch::Receiver<u64>,
    /// When there was one again after an interruption.
    regained: watch::Receiver<Option<Instant>>,
    /// What the broker has refused last on this connection, or why the client does not connect again.
    pub(crate) last_error: watch::Receiver<Option<String>>,
}

impl Connection {
    /// Connects to the first server of `url` that answers.
    pub(crate) async fn new(url: &str, options: ConnectOptions, name: &str) -> Result<Self, Refusal> {
        let (epochs, epoch) = watch::channel(0);
        let (errors, last_error) = watch::channel(None);
        let (regains, regained) = watch::channel(None);
        let senders = Arc::new(Senders { epochs, errors, regains });
        let (servers, options) = with_credentials(url, options);
        let client = options
            .name(name)
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .reconnect_delay_callback(backoff)
            .event_callback(move |event| {
                let senders = Arc::clone(&senders);
                async move { senders.note(&event) }
            })
            .connect(servers)
            .await
            .map_err(|error| Refusal {
                is_final: is_final(&error),
                error: encoded::unreachable(format!("cannot connect to {}: {error}", without_secrets(url))),
            })?;
        let max_payload = client.max_payload();
        if max_payload < MIN_MAX_PAYLOAD {
            return Err(Refusal {
                is_final: true,
                error: encoded::unreachable(format!(
                    "cannot use {}: its `max_payload` is {max_payload} bytes, and must be at least {MIN_MAX_PAYLOAD}",
                    without_secrets(url)
                )),
            });
        }
        let context = jetstream::context::ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .ack_timeout(REQUEST_TIMEOUT)
            .build(client.clone());
        Ok(Self { client, context, epoch, regained, last_error })
    }

    /// The end of an error's text: what the broker has refused, if it has.
    pub(crate) fn last_error(&self) -> String {
        self.last_error
            .borrow()
            .as_ref()
            .map_or_else(String::new, |last_error| format!(" (the broker: {last_error})"))
    }

    pub(crate) fn is_connected(&self) -> bool {
        !self.epoch.borrow().is_multiple_of(2)
    }

    /// Whether the connection was interrupted until some moment of that time.
    pub(crate) fn was_cut_within(&self, time: Duration) -> bool {
        self.regained.borrow().is_some_and(|regained| regained.elapsed() <= time)
    }

    /// What the broker answers. `None` once the connection has ended that has the question, with which the answer is
    /// lost: the client waits for it.
    pub(crate) async fn unless_cut<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        let end = end_of_connection(self.epoch.clone());
        tokio::select! {
            answer = answer => Some(answer),
            () = end => None,
        }
    }

    /// Whether the broker answers now, by a question about a stream, there or not. That it takes bytes says
    /// nothing: they may lie in a socket.
    pub(crate) async fn broker_answers(&self, stream: String) -> bool {
        let found = self.context.get_stream(stream).await;
        found.map_or_else(|error| matches!(error.kind(), GetStreamErrorKind::JetStream(_)), |_| true)
    }

    /// Waits until there is a connection; without end if there is never one again.
    pub(crate) async fn connected(&self) {
        if self.epoch.clone().wait_for(|epoch| !epoch.is_multiple_of(2)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The bytes that a message may have besides its header; larger ones go to the object store, in parts of that
    /// size. Not zero, whatever the server says.
    pub(crate) fn max_payload(&self) -> usize {
        self.client.max_payload().min(MAX_MESSAGE_LEN).saturating_sub(MAX_HEADER_LEN).max(1024)
    }
}

/// Waits until the connection ends that has what is sent now. If there is none, that is the next one.
fn end_of_connection(mut epoch: watch::Receiver<u64>) -> impl Future<Output = ()> {
    let connection = *epoch.borrow() | 1;
    async move {
        let _ = epoch.wait_for(|epoch| *epoch > connection).await;
    }
}

/// Why there is no connection.
pub(crate) struct Refusal {
    /// Another attempt is of no use.
    pub(crate) is_final: bool,
    pub(crate) error: Error,
}

/// Credentials and certificates do not get better by another attempt.
fn is_final(error: &ConnectError) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation
        | ConnectErrorKind::Authentication
        | ConnectErrorKind::ServerParse
        | ConnectErrorKind::Tls => true,
        // What the TLS library says of a certificate, or of a peer without TLS.
        _ => source.is_some_and(|source| source.kind() == io::ErrorKind::InvalidData),
    }
}

/// What the client's events change.
struct Senders {
    epochs: watch::Sender<u64>,
    errors: watch::Sender<Option<String>>,
    regains: watch::Sender<Option<Instant>>,
}

impl Senders {
    fn note(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.errors.send_replace(None);
                if *self.epochs.borrow() > 0 {
                    self.regains.send_replace(Some(Instant::now()));
                }
                self.epochs.send_modify(|epoch| *epoch = (*epoch + 1) | 1);
            }
            Event::ServerError(ServerError::Other(text)) | Event::ClientError(ClientError::Other(text)) => {
                self.errors.send_if_modified(|last_error| {
                    let is_new = last_error.as_ref() != Some(text);
                    *last_error = Some(text.clone());
                    is_new
                });
            }
            Event::Disconnected | Event::Closed => {
                self.epochs.send_modify(|epoch| *epoch = epoch.next_multiple_of(2));
            }
            _ => {}
        }
    }
}

fn backoff(attempts: usize) -> Duration {
    let factor = 1 << attempts.min(8);
    (Duration::from_millis(20) * factor).min(MAX_BACKOFF)
}

/// What a URL holds to log in with.
#[derive(Debug, PartialEq, Eq)]
enum Login {
    User(String, String),
    Token(String),
}

/// The addresses of a comma-separated list of URLs, and the options with the credentials that they hold: the
/// client reads them from its options only.
fn with_credentials(urls: &str, mut options: ConnectOptions) -> (Vec<String>, ConnectOptions) {
    let mut servers = Vec::new();
    for (address, login) in urls.split(',').map(split) {
        options = match login {
            Some(Login::User(user, password)) => options.user_and_password(user, password),
            Some(Login::Token(token)) => options.token(token),
            None => options,
        };
        servers.push(address);
    }
    (servers, options)
}

/// The address of a URL, and its login, whose special characters are percent-encoded as in any URL.
fn split(url: &str) -> (String, Option<Login>) {
    let (scheme, rest) = scheme_and_rest(url);
    let (login, address) =
        rest.rsplit_once('@').map_or((None, rest), |(login, address)| (Some(login), address));
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let login = login.map(|login| match login.split_once(':') {
        Some((user, password)) => Login::User(decoded(user), decoded(password)),
        None => Login::Token(decoded(login)),
    });
    (format!("{scheme}://{address}"), login)
}

fn scheme_and_rest(url: &str) -> (&str, &str) {
    url.trim().split_once("://").unwrap_or(("nats", url.trim()))
}

/// The URLs as an error may show them. What follows a comma without a scheme may be the rest of a password, so nothing
/// is shown that an `@` follows before the next scheme.
pub(crate) fn without_secrets(urls: &str) -> String {
    let mut lists: Vec<String> = Vec::new();
    for part in urls.split(',') {
        match lists.last_mut() {
            Some(list) if !part.contains("://") => list.extend([",", part]),
            _ => lists.push(part.to_owned()),
        }
    }
    let shown = lists.iter().flat_map(|list| {
        let (scheme, rest) = scheme_and_rest(list);
        let addresses = rest.rsplit_once('@').map_or(rest, |(_, addresses)| addresses);
        with_credentials(&format!("{scheme}://{addresses}"), ConnectOptions::new()).0
    });
    shown.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::fake_broker;

    #[test]
    fn an_answer_is_lost_with_the_connection_that_has_the_question_and_with_no_other() {
        // The epoch of the question, and what follows it.
        for (asked, kept, lost) in [(1, 1, 2), (1, 1, 3), (0, 1, 2), (2, 3, 4), (2, 2, 5)] {
            let (epochs, epoch) = watch::channel(asked);
            let mut end = std::pin::pin!(end_of_connection(epoch));
            for (now, is_lost) in [(asked, false), (kept, false), (lost, true)] {
                epochs.send_replace(now);
                assert_eq!(end.as_mut().now_or_never().is_some(), is_lost, "asked at {asked}, now {now}");
            }
        }
    }

    #[tokio::test]
    async fn a_server_of_tiny_messages_is_refused() {
        let refused = fake_broker::connect(8191, |_| Vec::new()).await.err().expect("it is not refused");
        assert!(refused.to_string().contains("`max_payload` is 8191 bytes"), "{refused}");
        assert!(fake_broker::connect(8192, |_| Vec::new()).await.is_ok());
    }

    #[tokio::test]
    async fn a_message_passes_a_slow_link_before_the_client_gives_the_connection_up() {
        const BYTES_PER_SECOND: u64 = 32 * 1024;
        let connection = fake_broker::connect(100_000_000, |_| Vec::new()).await.unwrap();
        let length = (connection.max_payload() + MAX_HEADER_LEN) as u64;
        assert!(Duration::from_millis(1000 * length / BYTES_PER_SECOND) <= 2 * PING_INTERVAL);
    }

    #[test]
    fn an_address_is_shown_without_its_secret() {
        assert_eq!(
            without_secrets("nats://secret@host:4222, tls://u:p@other"),
            "nats://host:4222,tls://other"
        );
        assert_eq!(without_secrets("nats://secret@host:4222, u:p@other"), "nats://other");
        assert_eq!(without_secrets("host:1"), "nats://host:1");
        assert_eq!(without_secrets("nats://u:se,cret@host:4222"), "nats://host:4222");
        assert_eq!(without_secrets("tls://u:se@c,r,et@a,b, ws://c"), "tls://a,nats://b,ws://c");
    }

    #[test]
    fn special_characters_of_a_login_are_percent_encoded() {
        let user = Login::User("us:er".to_owned(), "p,@%\u{e9}".to_owned());
        assert_eq!(split("tls://us%3aer:p%2C%40%25%C3%A9@host:1"), ("tls://host:1".to_owned(), Some(user)));
        let plain = Login::Token("100% t@ken".to_owned());
        assert_eq!(split("100% t@ken@host"), ("nats://host".to_owned(), Some(plain)));
    }

    #[test]
    fn pauses_between_attempts_grow_to_a_second() {
        assert_eq!(backoff(0), Duration::from_millis(20));
        assert_eq!(backoff(100), MAX_BACKOFF);
    }
}
