//! `POST /failsafe`: Patroni's codes, against a loop made by hand.

use http::Method;
use pgherd_api::Client;
use serde_json::{Value, json};

use super::{board, fixture, primary, replica, served};
use crate::event::Event;

const ON: (&str, &str) = ("config", r#"{"ttl":30,"failsafe_mode":true}"#);

async fn asked(leads: bool, config: &[(&str, &str)], promise: Option<bool>) -> (u16, String) {
    let state = if leads { primary() } else { replica() };
    let mut here = fixture(board(state, leads, config), None, true);
    let (address, task) = served(&here).await;
    let client = Client::new(std::time::Duration::from_secs(30));
    let url = format!("http://{address}/failsafe");
    let body: Value = json!({ "name": "pg-0", "conn_url": "", "api_url": "", "slots": {} });
    let ask = async { client.request(Method::POST, &url, Some(&body)).await.unwrap() };
    let act = async {
        // Nobody is asked where the answer is known.
        let Some(promised) = promise else { return };
        let Some(Event::HoldFor { leader, reply }) = here.events.recv().await else {
            panic!("the loop isn't asked");
        };
        assert_eq!(leader.as_str(), "pg-0");
        if promised {
            reply.send(()).unwrap();
        }
    };
    let (answer, ()) = tokio::join!(ask, act);
    task.abort();
    (answer.status.as_u16(), answer.text())
}

#[tokio::test]
async fn a_patroni_leader_is_accepted_when_the_promise_is_on_disk() {
    assert_eq!(asked(false, &[ON], Some(true)).await, (200, "Accepted".to_owned()));
    assert_eq!(asked(false, &[ON], Some(false)).await.0, 503, "nobody promised");
}

#[tokio::test]
async fn who_leads_or_has_it_off_accepts_nobody() {
    let running = (500, "Running as a leader".to_owned());
    assert_eq!(asked(true, &[ON], None).await, running);
    let off = (502, "Failsafe mode is disabled".to_owned());
    assert_eq!(asked(false, &[], None).await, off);
}
