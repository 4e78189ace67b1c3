//! A record as the line that the harness reads, whatever its texts hold.

use slipform_init::contract::event::{Event, MAX_LINE, Record};
use slipform_init::contract::inside::Item;

use crate::sys::clock;

/// Room for the console's prefix and the line's end.
const MAX_RECORD: usize = MAX_LINE - 128;

/// The record as JSON, its texts cut until it fits.
pub(super) fn encode(event: Event) -> Vec<u8> {
    let mut record = Record {
        t: u64::try_from(clock::since_boot().as_micros()).unwrap_or(u64::MAX),
        event,
    };
    let mut limit = MAX_RECORD;
    loop {
        let mut line = Vec::with_capacity(128);
        // Writing to memory, of types whose keys are texts, cannot fail.
        let _ = serde_json::to_writer(&mut line, &record);
        if line.len() <= MAX_RECORD || limit == 0 {
            return line;
        }
        limit /= 2;
        cut(&mut record.event, limit);
    }
}

/// Cuts the texts of an event that come from outside to `limit` bytes each.
fn cut(event: &mut Event, limit: usize) {
    let texts: [&mut String; 2] = match event {
        Event::Log { service, line, .. } => [service, line],
        Event::Error { what, why, .. } => [what, why],
        Event::Service { name, detail, .. } => [name, detail],
        Event::Network {
            address, detail, ..
        } => [address, detail],
        Event::Shutdown { kind, reason } => [kind, reason],
        Event::Boot { name, version, .. } => [name, version],
        Event::Layer { name, root_hash } => [name, root_hash],
        Event::LayerRead { name, error, .. } => [name, error],
        Event::Clock { server, .. } => return truncate(server, limit),
        Event::Metadata {
            instance_id,
            hostname,
            credentials,
            detail,
            ..
        } => {
            // Names are no longer than 255 bytes, and there are 128 at most.
            credentials.truncate(limit / 64);
            truncate(detail, limit);
            [instance_id, hostname]
        }
        Event::Health {
            service, detail, ..
        } => [service, detail],
        Event::StateFile { path, error, .. } => [path, error],
        Event::State { detail, .. }
        | Event::RootWrite { detail, .. }
        | Event::LastBoot { detail, .. } => {
            return truncate(detail, limit);
        }
        Event::Limit { service, .. } => return truncate(service, limit),
        Event::Watchdog { device, .. } => return truncate(device, limit),
        Event::Sink { sink, detail, .. } => [sink, detail],
        Event::LogLoss { sink, .. } => return truncate(sink, limit),
        Event::Inside { item, .. } => return cut_item(item, limit),
        Event::Phase { .. } | Event::Ready { .. } | Event::Spool { .. } | Event::End { .. } => {
            return;
        }
    };
    texts.into_iter().for_each(|text| truncate(text, limit));
}

/// The same for a piece of an answer.
fn cut_item(item: &mut Item, limit: usize) {
    let texts: [&mut String; 3] = match item {
        Item::Machine(seen) => [&mut seen.image, &mut seen.version, &mut seen.host],
        Item::Service(seen) => [&mut seen.name, &mut seen.status, &mut seen.detail],
        Item::Mount(seen) => [&mut seen.target, &mut seen.source, &mut seen.options],
        Item::Log(seen) => [&mut seen.service, &mut seen.stream, &mut seen.line],
        Item::Route(seen) => return truncate(&mut seen.interface, limit),
        Item::Interface(seen) => return seen.addresses.truncate(limit / 64),
        Item::Dns(seen) => {
            let lists = [&mut seen.servers, &mut seen.search];
            return lists
                .into_iter()
                .for_each(|list| list.truncate(limit / 512));
        }
        Item::End(why) => return truncate(why, limit),
        Item::State(seen) => return truncate(&mut seen.path, limit),
        Item::Memory(_) | Item::Lost(_) => return,
    };
    texts.into_iter().for_each(|text| truncate(text, limit));
}

fn truncate(text: &mut String, limit: usize) {
    let end = (0..=limit.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipform_init::contract::event::Phase;

    #[test]
    fn a_record_is_never_longer_than_a_reader_must_take() {
        for text in [
            "x".repeat(1 << 20),
            "\u{1}".repeat(20_000),
            "ü\"".repeat(9_000),
        ] {
            let log = Event::Log {
                service: "web".to_owned(),
                stream: "out".to_owned(),
                line: text.clone(),
            };
            let error = Event::Error {
                phase: Phase::Disk,
                what: text.clone(),
                why: text,
            };
            for event in [log, error] {
                let line = encode(event);
                assert!(line.len() <= MAX_RECORD);
                assert!(line.len() > MAX_RECORD / 4);
                let record: Record = serde_json::from_slice(&line).unwrap();
                assert!(matches!(
                    record.event,
                    Event::Log { .. } | Event::Error { .. }
                ));
            }
        }
    }
}
