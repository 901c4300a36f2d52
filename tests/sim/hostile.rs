//! Guests that break the rules: what a host does then has a bound.

use std::time::Duration;

use quantix::endpoint::{Endpoint, Incoming};
use quantix::host::{Event, Host};
use quantix::ids::{MessageId, SessionId};
use quantix::limits::LOOK_AFTER;
use quantix::message::{AgentMessage, Body, agent, encode, message};
use quantix::time::Time;
use quantix::window::Side;

use super::random::Random;

const LIFE: Duration = Duration::from_secs(10);

/// The quickest that a session may follow another on one connection.
const RENEW_PAUSE: Duration = Duration::from_millis(50);

/// A host and a guest without any delay between them. `answer`: what the guest does with a Ping.
/// How many sessions were opened, how many bytes the host wrote, and how often it had to run.
fn run(answer: impl Fn(&mut Endpoint, &agent::Ping, SessionId)) -> (u32, usize, u32) {
    let mut random = Random::new(1);
    let begin = Time::from_micros(1);
    let mut now = begin;
    let mut host = Host::new();
    let mut guest = Endpoint::new(Side::Guest);
    host.handle_socket(now);
    let (mut opened, mut bytes, mut turns) = (0, 0, 0);
    while now.since(begin) < LIFE {
        turns += 1;
        assert!(turns < 100_000, "the host spins");
        host.handle_timeout(now, true);
        while let Some(event) = host.poll_event() {
            match event {
                Event::Connect => host.handle_connected(now, &mut || random.bytes()),
                Event::Opened(_) => opened += 1,
                _ => {}
            }
        }
        let mut moved = false;
        while let Some(out) = host.poll_transmit().map(<[u8]>::to_vec) {
            host.on_written(out.len());
            bytes += out.len();
            moved = true;
            let mut input = &out[..];
            while let Some(incoming) = guest.next(&mut input) {
                if let Incoming::Unsealed(AgentMessage {
                    body: Some(Body::Ping(ping)),
                    ..
                }) = incoming
                {
                    let session = SessionId::parse(random.next() | 1).unwrap();
                    answer(&mut guest, &ping, session);
                }
            }
        }
        while let Some(out) = guest.poll_transmit().map(<[u8]>::to_vec) {
            guest.on_written(out.len());
            host.handle_bytes(now, &out, &mut || random.bytes());
            moved = true;
        }
        if !moved {
            let soon = now + Duration::from_micros(1);
            now = host.poll_timeout().unwrap_or(soon).max(soon);
        }
    }
    (opened, bytes, turns)
}

fn pong(ping: &agent::Ping, session: SessionId) -> AgentMessage {
    message(
        "",
        Body::Pong(agent::Pong {
            sequence: ping.sequence,
            nonce: ping.nonce.clone(),
            session: session.get(),
            ..Default::default()
        }),
    )
}

#[test]
fn a_guest_that_ends_sessions_in_a_loop_cannot_make_the_host_spin() {
    let (opened, bytes, _) = run(|guest, ping, session| {
        guest.open_with_pong(session, &pong(ping, session), false);
        let ended = agent::SessionEnded::default();
        guest.end_session_with(&message("", Body::SessionEnded(ended)));
    });
    let most = LIFE.as_millis() / RENEW_PAUSE.as_millis() + 2;
    assert!((10..=most).contains(&u128::from(opened)), "{opened} opened");
    assert!(bytes < 200_000, "{bytes} bytes written");
}

#[test]
fn a_guest_that_opens_a_session_for_each_ping_cannot_make_the_host_spin() {
    let (opened, bytes, _) = run(|guest, ping, session| {
        guest.open_with_pong(session, &pong(ping, session), false);
    });
    let most = LIFE.as_millis() / LOOK_AFTER.as_millis() + 2;
    assert!(u128::from(opened) <= most, "{opened} opened");
    assert!(bytes < 10_000, "{bytes} bytes written");
}

#[test]
fn a_guest_that_seals_its_first_pong_cannot_make_the_host_spin() {
    let (opened, bytes, _) = run(|guest, ping, session| {
        guest.open_at(session, 0);
        guest.push_sealed(&pong(ping, session));
    });
    assert_eq!(opened, 0);
    assert!(bytes < 200_000, "{bytes} bytes written");
}

/// Acknowledges what was never sent.
#[test]
fn a_guest_that_acknowledges_too_much_cannot_make_the_host_spin() {
    let (opened, bytes, _) = run(|guest, ping, session| {
        guest.open_with_pong(session, &pong(ping, session), true);
        let credit = agent::Credit {
            bytes: u64::MAX,
            ..Default::default()
        };
        guest.push_sealed(&message("", Body::Credit(credit)));
    });
    let most = LIFE.as_millis() / RENEW_PAUSE.as_millis() + 2;
    assert!((10..=most).contains(&u128::from(opened)), "{opened} opened");
    assert!(bytes < 200_000, "{bytes} bytes written");
}

/// Bytes of a file may look like a Ping that the host has sent before: what an agent says to one
/// proves nothing of the requests that followed.
#[test]
fn an_answer_to_an_answered_ping_brings_no_request_back() {
    let mut random = Random::new(1);
    let mut now = Time::from_micros(1);
    let mut host = Host::new();
    let mut guest = Endpoint::new(Side::Guest);
    host.handle_socket(now);
    host.handle_timeout(now, true);
    host.handle_connected(now, &mut || random.bytes());
    let mut pings = Vec::new();
    for turn in 0..3 {
        while let Some(out) = host.poll_transmit().map(<[u8]>::to_vec) {
            host.on_written(out.len());
            let mut input = &out[..];
            while let Some(incoming) = guest.next(&mut input) {
                if let Incoming::Unsealed(AgentMessage {
                    body: Some(Body::Ping(ping)),
                    ..
                }) = incoming
                {
                    pings.push(ping);
                }
            }
        }
        if turn < 2 {
            let session = SessionId::parse(turn + 1).unwrap();
            guest.open_with_pong(session, &pong(&pings[0], session), true);
        }
        while let Some(out) = guest.poll_transmit().map(<[u8]>::to_vec) {
            guest.on_written(out.len());
            host.handle_bytes(now, &out, &mut || random.bytes());
        }
        now = now + Duration::from_secs(2);
        if turn == 0 {
            let id = MessageId::parse("a").unwrap();
            let body = message("a", Body::WriteFile(agent::WriteFile::default()));
            host.request(now, &id, encode(&body).unwrap()).unwrap();
        }
    }
    assert_eq!(pings.len(), 2, "the request went out behind a Ping");
    while let Some(event) = host.poll_event() {
        assert!(!matches!(event, Event::Lost { kept, .. } if !kept.is_empty()));
    }
}
