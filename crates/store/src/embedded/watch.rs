//! One watch stream with its watches. Each asks the history for what it hasn't told, whenever there
//! is news: nothing is queued per watcher, and a slow one costs nothing but its own delay.
//! Leaves the past itself to `history`.

use std::collections::{BTreeMap, VecDeque};

use futures_util::stream::{self, Stream};
use tokio::sync::watch as latest;
use tonic::{Status, Streaming};

use super::refusal::Refusal;
use super::service::Service;
use crate::pb::{self, Event, EventType, WatchFilter, watch_request::Request};
use crate::types::in_range;

/// Events in one response; whole revisions only, so it may be one revision more.
const MAX_EVENTS: usize = 1000;

impl Service {
    pub(crate) fn watch(
        self,
        requests: Streaming<pb::WatchRequest>,
    ) -> impl Stream<Item = Result<pb::WatchResponse, Status>> + Send {
        let news = self.shared.news();
        let session = Session {
            service: self,
            requests,
            news,
            watches: BTreeMap::new(),
            ready: VecDeque::new(),
            next_id: 0,
            told: 0,
            progress_due: false,
        };
        stream::unfold(Some(session), |session| async move {
            let mut session = session?;
            match session.next().await {
                Some(Ok(response)) => Some((Ok(response), Some(session))),
                Some(Err(status)) => Some((Err(status), None)),
                None => None,
            }
        })
    }
}

struct Session {
    service: Service,
    requests: Streaming<pb::WatchRequest>,
    news: latest::Receiver<i64>,
    watches: BTreeMap<i64, Watch>,
    /// Bounded by the requests of one message and one response per watch: it is emptied before
    /// anything else is read.
    ready: VecDeque<pb::WatchResponse>,
    next_id: i64,
    /// Everything up to this revision was told, once `ready` is empty.
    told: i64,
    /// The client asked how far we are.
    progress_due: bool,
}

struct Watch {
    request: pb::WatchCreateRequest,
    /// The next revision to tell.
    next: i64,
}

impl Session {
    async fn next(&mut self) -> Option<Result<pb::WatchResponse, Status>> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Some(Ok(response));
            }
            if self.gather() {
                continue;
            }
            if std::mem::take(&mut self.progress_due) {
                let header = self.service.header_at(self.told);
                let response =
                    pb::WatchResponse { header, watch_id: -1, ..pb::WatchResponse::default() };
                return Some(Ok(response));
            }
            tokio::select! {
                request = self.requests.message() => match request {
                    Ok(Some(request)) => self.take(request),
                    // The client is done, or gone.
                    Ok(None) | Err(_) => return None,
                },
                changed = self.news.changed() => if changed.is_err() { return None },
                () = self.service.stopping() => {
                    return Some(Err(Status::unavailable("the store is stopping")));
                }
            }
        }
    }

    fn take(&mut self, request: pb::WatchRequest) {
        match request.request {
            Some(Request::Create(create)) => self.create(create),
            Some(Request::Cancel(cancel)) => self.cancel(cancel.watch_id),
            Some(Request::Progress(_)) => self.progress_due = true,
            None => {}
        }
    }

    fn cancel(&mut self, watch_id: i64) {
        if self.watches.remove(&watch_id).is_some() {
            let response = pb::WatchResponse { watch_id, canceled: true, ..self.response() };
            self.ready.push_back(response);
        }
    }

    fn response(&self) -> pb::WatchResponse {
        pb::WatchResponse { header: self.service.header(), ..pb::WatchResponse::default() }
    }

    fn create(&mut self, mut create: pb::WatchCreateRequest) {
        let refuse = |id, reason: &str, base| pb::WatchResponse {
            watch_id: id,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..base
        };
        if create.key.is_empty() {
            // etcd takes this for the least key.
            create.key = bytes::Bytes::from_static(&[0]);
        }
        let id = if create.watch_id == 0 { self.next_id } else { create.watch_id };
        if self.watches.contains_key(&id) {
            let response =
                refuse(-1, "mvcc: duplicate watch ID provided on the WatchStream", self.response());
            self.ready.push_back(response);
            return;
        }
        self.next_id = self.next_id.max(id + 1);
        let created = pb::WatchResponse { watch_id: id, created: true, ..self.response() };
        let current = created.header.as_ref().map_or(0, |header| header.revision);
        let next = if create.start_revision > 0 { create.start_revision } else { current + 1 };
        self.ready.push_back(created);
        self.watches.insert(id, Watch { request: create, next });
    }

    /// Puts what each watch hasn't told into `ready`; whether there was anything.
    fn gather(&mut self) -> bool {
        // Before looking: what comes after this look is news again.
        self.news.borrow_and_update();
        let visible = self.service.shared.visible();
        let current = visible.state.revision();
        let header = self.service.header_at(current);
        let mut cancelled = Vec::new();
        for (id, watch) in &mut self.watches {
            let base =
                pb::WatchResponse { header: header.clone(), watch_id: *id, ..Default::default() };
            let Ok(revisions) = visible.history.since(watch.next) else {
                cancelled.push(*id);
                self.ready.push_back(pb::WatchResponse {
                    canceled: true,
                    compact_revision: visible.history.compacted(),
                    cancel_reason: Refusal::Compacted.to_string(),
                    ..base
                });
                continue;
            };
            let mut events = Vec::new();
            let mut next = watch.next.max(current + 1);
            for (revision, all) in revisions {
                if events.len() >= MAX_EVENTS {
                    next = *revision;
                    break;
                }
                events.extend(all.iter().filter_map(|event| watch.request.pick(event)));
            }
            watch.next = next;
            if !events.is_empty() {
                self.ready.push_back(pb::WatchResponse { events, ..base });
            }
        }
        drop(visible);
        self.told = current;
        for id in cancelled {
            self.watches.remove(&id);
        }
        !self.ready.is_empty()
    }
}

impl pb::WatchCreateRequest {
    /// The event as this watch wants it; none when it doesn't.
    fn pick(&self, event: &Event) -> Option<Event> {
        let kv = event.kv.as_ref()?;
        let unwanted = |filter: WatchFilter| self.filters.contains(&i32::from(filter));
        let is_delete = event.r#type == i32::from(EventType::Delete);
        let filter = if is_delete { WatchFilter::NoDelete } else { WatchFilter::NoPut };
        if unwanted(filter) || !in_range(&kv.key, &self.key, &self.range_end) {
            return None;
        }
        let prev_kv = event.prev_kv.clone().filter(|_| self.prev_kv);
        Some(Event { r#type: event.r#type, kv: event.kv.clone(), prev_kv })
    }
}
