//! The HTTP client of the commands that ask a running daemon.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, Uri, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::Exit;

/// Longer answers are refused; a status of ten thousand partitions is about 2 MiB.
const ANSWER_MAX: usize = 16 << 20;

/// Where a daemon listens: `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

impl Endpoint {
    /// Where to ask a listener of this machine: a listener on every address is asked on loopback.
    pub fn of_listener(listen: SocketAddr) -> Endpoint {
        let ip = match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        Endpoint(SocketAddr::new(ip, listen.port()).to_string())
    }
}

impl FromStr for Endpoint {
    type Err = String;

    /// `http://host:port` or `host:port`.
    fn from_str(text: &str) -> Result<Endpoint, String> {
        let unreadable = || format!("{text:?} is not an address; write http://127.0.0.1:9465");
        let uri: Uri = text.parse().map_err(|_| unreadable())?;
        if uri.scheme_str().is_some_and(|scheme| scheme != "http") {
            return Err("readside speaks plain HTTP only; write http://127.0.0.1:9465".to_owned());
        }
        if !matches!(uri.path_and_query().map(|path| path.as_str()), None | Some("/")) {
            return Err(format!("{text:?} has a path; write the host and the port only"));
        }
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let authority = authority.ok_or_else(unreadable)?;
        if authority.port_u16().is_none() {
            return Err(format!("{text:?} has no port; write http://127.0.0.1:9465"));
        }
        Ok(Endpoint(authority.as_str().to_owned()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// What it says; anything else than readside's answer is an [`Exit`] with code 69.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Exit> {
        serde_json::from_str(&self.body)
            .map_err(|_| Exit::unavailable(format!("this is not readside's answer: {}", self.message())))
    }

    /// The `message` of an answer that is an error, else the answer itself.
    pub fn message(&self) -> String {
        let json: Option<serde_json::Value> = serde_json::from_str(&self.body).ok();
        match json.as_ref().and_then(|json| json.get("message")?.as_str()) {
            Some(message) => message.to_owned(),
            None => format!("HTTP {} {}", self.status, self.body.chars().take(200).collect::<String>()),
        }
    }
}

/// Runs a command's requests; one thread is enough for them.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// `GET`; any status is an answer. No answer within `timeout` is an [`Exit`] with code 69 that
/// says what to do.
pub async fn get(endpoint: &Endpoint, path: &str, timeout: Duration) -> Result<Answer, Exit> {
    ask(endpoint, Method::GET, path, timeout).await
}

/// `POST` without a body; like [`get`].
pub async fn post(endpoint: &Endpoint, path: &str, timeout: Duration) -> Result<Answer, Exit> {
    ask(endpoint, Method::POST, path, timeout).await
}

async fn ask(endpoint: &Endpoint, method: Method, path: &str, timeout: Duration) -> Result<Answer, Exit> {
    match tokio::time::timeout(timeout, exchange(endpoint, method, path)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(reason)) => Err(Exit::unavailable(format!(
            "cannot ask {endpoint}: {reason}; is `readside run` running, and does it listen there?"
        ))),
        Err(_) => Err(Exit::unavailable(format!(
            "no answer from {endpoint} within {timeout:?}; is it readside that listens there?"
        ))),
    }
}

async fn exchange(
    endpoint: &Endpoint,
    method: Method,
    path: &str,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(endpoint.0.as_str()).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, endpoint.0.as_str())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await?.to_bytes();
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = answer.as_mut() => return answer,
        // The connection may end before the answer has been picked up.
        ended = connection => ended?,
    }
    answer.await
}

/// A value for a query string: everything but unreserved characters is escaped (RFC 3986, 2.3).
pub fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// Answers one request with these bytes and returns what was asked.
    pub(crate) fn answering(bytes: String) -> (Endpoint, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::of_listener(listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            // The client may hang up on what it does not want.
            let _ = stream.write_all(bytes.as_bytes());
            String::from_utf8(head).unwrap()
        });
        (endpoint, thread)
    }

    pub(crate) fn response(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    fn ask(endpoint: &Endpoint, timeout: Duration) -> anyhow::Result<Answer> {
        block_on(async { Ok(get(endpoint, "/status", timeout).await?) })
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn an_address_is_read_with_and_without_its_scheme() {
        for text in ["http://127.0.0.1:9465", "http://127.0.0.1:9465/", "127.0.0.1:9465"] {
            assert_eq!(text.parse(), Ok(Endpoint("127.0.0.1:9465".to_owned())), "{text}");
        }
        assert_eq!("http://[::1]:9465".parse(), Ok(Endpoint("[::1]:9465".to_owned())));
        for text in
            ["", "https://h:1", "http://h", "h", "http://h:1/status", "http://a@h:1", "http://h:x", "/"]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_listener_on_every_address_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:9464", "http://127.0.0.1:9464"),
            ("[::]:9464", "http://[::1]:9464"),
            ("10.0.0.7:1", "http://10.0.0.7:1"),
        ] {
            assert_eq!(Endpoint::of_listener(listen.parse().unwrap()).to_string(), asked);
        }
    }

    #[test]
    fn any_status_is_an_answer() {
        let (endpoint, asked) =
            answering(response("404 Not Found", r#"{"error":"e","message":"nothing here"}"#));
        let answer = ask(&endpoint, PATIENCE).unwrap();
        assert_eq!((answer.status, answer.message().as_str()), (404, "nothing here"));
        let asked = asked.join().unwrap();
        assert!(asked.starts_with("GET /status HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains(&format!("host: {}", endpoint.0)), "{asked}");
    }

    #[test]
    fn no_answer_is_exit_code_69_and_says_what_to_do() {
        let nobody = "127.0.0.1:1".parse().unwrap();
        let (other, _asked) = answering("220 mail.example ESMTP\r\n".to_owned());
        let (silent, _asked) = answering(String::new());
        for endpoint in [nobody, other, silent] {
            let error = ask(&endpoint, PATIENCE).unwrap_err();
            assert_eq!(super::super::exit_code(&error), super::super::UNAVAILABLE);
            let message = format!("{error:#}");
            assert!(message.contains(&endpoint.to_string()) && message.contains("readside run"), "{message}");
        }
        // Accepts, and then says nothing.
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::of_listener(mute.local_addr().unwrap());
        let error = ask(&endpoint, Duration::from_millis(50)).unwrap_err();
        assert_eq!(super::super::exit_code(&error), super::super::UNAVAILABLE);
    }

    #[test]
    fn an_endless_answer_is_refused() {
        let (endpoint, _asked) = answering(response("200 OK", &"x".repeat(ANSWER_MAX + 1)));
        assert!(ask(&endpoint, PATIENCE).is_err());
    }

    #[test]
    fn what_a_query_cannot_hold_is_escaped() {
        assert_eq!(escape(r#"["a b&c",1]"#), "%5B%22a%20b%26c%22%2C1%5D");
        assert_eq!(escape("2026-01-31T10:30:00+02:00"), "2026-01-31T10%3A30%3A00%2B02%3A00");
        assert_eq!(escape("ä"), "%C3%A4");
    }
}
