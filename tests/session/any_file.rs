//! Any bytes as a session file: used by tests/session.rs on damaged real ones, and by the fuzz target.

use taper::session::replay;

/// The file is refused, or what is whole in it can be gone on from. `true` for the latter.
pub fn check(bytes: &[u8]) -> bool {
    let Ok(saved) = replay(bytes) else { return false };
    assert_eq!(saved.whole + saved.torn, bytes.len());
    let whole = &bytes[..saved.whole];
    assert!(whole.is_empty() || whole.ends_with(b"\n"));

    // Taking the torn line away, as whoever opens the file does, changes nothing else.
    let mended = replay(whole).unwrap();
    assert_eq!((mended.torn, &mended.conversation, &mended.model), (0, &saved.conversation, &saved.model));

    // And the next line is understood, if it has a header above it.
    if !whole.is_empty() {
        let cleared = replay(&[whole, b"{\"type\":\"clear\"}\n"].concat()).unwrap();
        assert_eq!(cleared.conversation.system(), saved.conversation.system());
    }
    true
}
