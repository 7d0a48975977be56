//! The thread on which the shop lives: it sends what happens, about twenty records a second.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::oneshot;

use super::shop::{Message, Shop};
use crate::source::kafka::mock::{MockError, Outgoing, Producer};

/// Between two records.
const PACE: Duration = Duration::from_millis(50);
/// For the broker to take what was sent. It is in this process: only a stuck machine needs longer.
const FLUSH_MAX: Duration = Duration::from_secs(30);

/// What is known when nothing more will be sent.
pub struct Finished {
    pub shop: Shop,
    /// Next offset of every partition that was written to, by topic and partition.
    pub ends: BTreeMap<(String, i32), i64>,
}

pub struct Producing {
    stop: Option<Sender<()>>,
    /// Resolves when the thread has ended: after [`Producing::stop`], or earlier with an error.
    finished: oneshot::Receiver<Result<Finished, MockError>>,
}

/// Sends everything the shop begins with, and waits until the broker has it.
pub fn produce_opening(shop: &mut Shop, producer: &Producer, now_ms: i64) -> Result<(), MockError> {
    send(producer, &shop.open(now_ms))?;
    producer.flush(FLUSH_MAX).map(|_| ())
}

impl Producing {
    pub fn start(
        shop: Shop,
        producer: Producer,
        now_ms: impl Fn() -> i64 + Send + 'static,
    ) -> std::io::Result<Producing> {
        let (stop, stopped) = channel();
        let (finished_tx, finished) = oneshot::channel();
        std::thread::Builder::new().name("shop".into()).spawn(move || {
            // Nobody listens any more when the demo ends because of something else.
            let _ = finished_tx.send(trade(shop, &producer, &now_ms, &stopped));
        })?;
        Ok(Producing { stop: Some(stop), finished })
    }

    pub fn stop(&mut self) {
        self.stop = None;
    }

    /// Resolves when the thread has ended. Not to be called again afterwards.
    pub async fn finished(&mut self) -> Result<Finished, MockError> {
        (&mut self.finished).await.unwrap_or(Err(MockError::Ended))
    }
}

fn trade(
    mut shop: Shop,
    producer: &Producer,
    now_ms: &dyn Fn() -> i64,
    stopped: &Receiver<()>,
) -> Result<Finished, MockError> {
    loop {
        let messages = shop.step(now_ms());
        send(producer, &messages)?;
        let pause = PACE * u32::try_from(messages.len()).unwrap_or(1).max(1);
        match stopped.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    send(producer, &shop.close())?;
    let ends = producer.flush(FLUSH_MAX)?;
    Ok(Finished { shop, ends })
}

fn send(producer: &Producer, messages: &[Message]) -> Result<(), MockError> {
    for message in messages {
        let headers: Vec<(&str, &[u8])> =
            message.headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        producer.send(Outgoing {
            topic: message.topic,
            key: message.key.as_bytes(),
            value: message.value.as_ref().map(String::as_bytes),
            headers: &headers,
        })?;
    }
    Ok(())
}
