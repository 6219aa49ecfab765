//! A hub that has no time just now.

use std::time::{Duration, Instant};

use super::{Place, gguf};

#[test]
fn a_busy_hub_is_asked_again_when_it_says() {
    let place = Place::with(&[gguf()]);
    let busy = ("503 Service Unavailable", "");
    place.hub.refuse_next(&[("429 Too Many Requests", "Retry-After: 2\r\n"), busy]);
    let start = Instant::now();
    let told = place.pulled(&gguf());
    assert!(start.elapsed() >= Duration::from_secs(4), "2 s as it said, then 2 s of taper's own");
    for line in [
        "the hub is busy (too many requests from here): trying again in 2 s\n",
        "the hub is busy (it answered 503 Service Unavailable): trying again in 2 s\n",
    ] {
        assert!(told.contains(line), "{told}");
    }
    assert_eq!(place.hub.requests().iter().filter(|request| request.contains("/api/models")).count(), 3);
}
