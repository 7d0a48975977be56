//! A network that fails: what a client and a broker say to each other passes through here.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Fine,
    /// Connections end, and there are no new ones.
    Cut,
    /// Connections stay, and new ones are made; nothing comes through.
    Silent,
    /// So many bytes come through at a time, and then nothing for so long.
    Slow {
        bytes: usize,
        pause: Duration,
    },
}

pub struct Proxy {
    listener: Option<TcpListener>,
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    network: Mutex<Network>,
    changed: Condvar,
    /// Both ends of each connection.
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Has a port, and nobody behind it yet.
    pub fn new() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Shared {
            network: Mutex::new(Network::Fine),
            changed: Condvar::new(),
            open: Mutex::new(Vec::new()),
        };
        Proxy { listener: Some(listener), port, shared: Arc::new(shared) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pass_on_to(&mut self, behind: SocketAddr) {
        let (listener, shared) = (self.listener.take().unwrap(), Arc::clone(&self.shared));
        // Ends with the process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if *shared.network.lock().unwrap() == Network::Cut {
                    continue;
                }
                let Ok(server) = TcpStream::connect(behind) else { continue };
                let ends = [(&client, &server), (&server, &client)];
                let ends = ends.map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap()));
                let mut open = shared.open.lock().unwrap();
                open.extend([client, server]);
                drop(open);
                for (from, to) in ends {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || shared.carry(from, to));
                }
            }
        });
    }

    pub fn is_now(&self, network: Network) {
        *self.shared.network.lock().unwrap() = network;
        self.shared.changed.notify_all();
        if network == Network::Cut {
            for stream in self.shared.open.lock().unwrap().drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Shared {
    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (room, pause) = match self.passes() {
                Some(Network::Slow { bytes, pause }) => (bytes, Some(pause)),
                Some(_) => (buffer.len(), None),
                None => break,
            };
            let Ok(count) = from.read(&mut buffer[..room]) else { break };
            // What was under way when it went silent stays under way.
            if count == 0 || self.passes().is_none() || to.write_all(&buffer[..count]).is_err() {
                break;
            }
            if let Some(pause) = pause {
                thread::park_timeout(pause);
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    /// Waits while it is silent; `None`: it was cut.
    fn passes(&self) -> Option<Network> {
        let network = self.network.lock().unwrap();
        let network = self.changed.wait_while(network, |network| *network == Network::Silent).unwrap();
        Some(*network).filter(|network| *network != Network::Cut)
    }
}
