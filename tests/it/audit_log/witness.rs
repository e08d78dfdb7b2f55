//! A small witness (c2sp.org/tlog-witness): remembers one checkpoint of each log, and signs only what it can follow.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use base64ct::{Base64, Encoding};
use blockremote::app::witness::{self, Witness};
use blockremote::crypto::note::{KeyKind, Note, NoteKey, Verifier};
use blockremote::domains::audit::merkle::{Hash, verify_consistency};
use blockremote::domains::audit::tiles::Checkpoint;
use blockremote::testkit::{Fault, Server};

use super::grow;
use crate::common::{Done, first_tenant};

const NAME: &str = "witness.example";

/// What it saw last, by origin.
type Seen = Arc<Mutex<HashMap<String, (u64, Hash)>>>;

/// What it answers: status and body.
fn judge(body: &str, seen: &Seen, key: &NoteKey) -> Option<(u16, String)> {
    let (head, note) = body.split_once("\n\n")?;
    let mut lines = head.lines();
    let old: u64 = lines.next()?.strip_prefix("old ")?.parse().ok()?;
    let proof: Vec<Hash> = lines.map(|l| Base64::decode_vec(l).ok()?.try_into().ok()).collect::<Option<_>>()?;
    let text = Note::parse(note.as_bytes()).ok()?.text().to_owned();
    let checkpoint = Checkpoint::parse(&text)?;
    let mut seen = seen.lock().ok()?;
    let (size, root) = seen.get(&checkpoint.origin).copied().unwrap_or((0, blockremote::crypto::sha256(&[])));
    if old != size {
        return Some((409, format!("{size}\n")));
    }
    if !verify_consistency(old, checkpoint.size, &proof, &root, &checkpoint.root) {
        return Some((422, String::new()));
    }
    seen.insert(checkpoint.origin.clone(), (checkpoint.size, checkpoint.root));
    Some((200, key.cosign(NAME, &text, 1_800_000_000)))
}

fn serve(listener: TcpListener, seen: Seen, key: NoteKey) {
    for stream in listener.incoming().flatten() {
        let mut reader = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
            let lower = line.to_ascii_lowercase();
            length = lower.strip_prefix("content-length:").and_then(|n| n.trim().parse().ok()).unwrap_or(length);
            line.clear();
        }
        let mut body = vec![0; length];
        let read = reader.read_exact(&mut body).is_ok();
        let body = String::from_utf8(body).unwrap_or_default();
        let (status, answer) = judge(&body, &seen, &key).filter(|_| read).unwrap_or((400, String::new()));
        let head = format!("HTTP/1.1 {status} Answer\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
        let _ = reader.get_mut().write_all(format!("{head}{answer}").as_bytes());
    }
}

fn cosigned(note: &str, key: &Verifier) -> Result<bool, Fault> {
    Ok(Note::parse(note.as_bytes())?.cosigned_at(key).is_ok_and(|at| at == 1_800_000_000))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_cosigns_what_it_can_follow_and_nothing_else() -> Done {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let key = NoteKey::from_seed(&[9; 32])?;
    let verifier = Verifier::new(NAME, KeyKind::Cosignature, key.public());
    let seen = Seen::default();
    let memory = Arc::clone(&seen);
    std::thread::spawn(move || serve(listener, memory, key));
    let server = Server::start_with(|c| {
        c.audit.witness_url = Some(url.clone());
        c.audit.witness_key = Some(verifier.to_string());
    })
    .await?;
    let (tenant, audit) = (first_tenant(&server).await?, server.app().services.audit.clone());
    let asked = Witness::of(server.config())?.ok_or("no witness")?;

    witness::round(&audit, Some(&asked), &[tenant]).await;
    assert!(cosigned(&audit.checkpoint(tenant).await?, &verifier)?);
    grow(&server, tenant, 5).await?;
    witness::round(&audit, Some(&asked), &[tenant]).await;
    assert!(cosigned(&audit.checkpoint(tenant).await?, &verifier)?, "it followed the log to its next checkpoint");

    // A witness that was restored itself says what it saw last, and is led on from there.
    seen.lock().map_err(|e| e.to_string())?.clear();
    grow(&server, tenant, 5).await?;
    witness::round(&audit, Some(&asked), &[tenant]).await;
    assert!(cosigned(&audit.checkpoint(tenant).await?, &verifier)?);

    // It has seen another log under this name: it does not sign, and the appliance goes on.
    for (_, root) in seen.lock().map_err(|e| e.to_string())?.values_mut() {
        *root = [0; 32];
    }
    grow(&server, tenant, 5).await?;
    witness::round(&audit, Some(&asked), &[tenant]).await;
    let note = audit.checkpoint(tenant).await?;
    assert!(!cosigned(&note, &verifier)? && Note::parse(note.as_bytes()).is_ok());
    Ok(())
}
