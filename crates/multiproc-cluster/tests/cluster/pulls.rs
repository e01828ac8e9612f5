//! Pulls chunks from a stream, in place of a host.

use async_nats::jetstream::Context;
use async_nats::{Client, Message, Subject, Subscriber};
use futures_util::StreamExt;

pub(crate) struct Pulls {
    client: Client,
    subject: String,
    /// What comes has the subject of the chunk, which `Client::request` does not take for an answer.
    inbox: Subject,
    answers: Subscriber,
}

impl Pulls {
    pub(crate) async fn of_stream(name: &str, context: &Context) -> Self {
        let client = context.client();
        let inbox = Subject::from(client.new_inbox());
        let answers = client.subscribe(inbox.clone()).await.unwrap();
        Self { subject: format!("$JS.API.CONSUMER.MSG.NEXT.{name}.agents"), client, inbox, answers }
    }

    /// The next chunk. Waits until there is one.
    pub(crate) async fn next(&mut self) -> Message {
        loop {
            let request = "{\"batch\":1,\"expires\":5000000000}";
            let (subject, inbox) = (self.subject.clone(), self.inbox.clone());
            self.client.publish_with_reply(subject, inbox, request.into()).await.unwrap();
            let answer = self.answers.next().await.unwrap();
            if answer.status.is_none() {
                return answer;
            }
        }
    }

    pub(crate) async fn hand_back(&self, chunk: Message) {
        self.client.publish(chunk.reply.unwrap(), "-NAK".into()).await.unwrap();
        self.client.flush().await.unwrap();
    }
}
