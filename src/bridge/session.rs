//! What a client of a revision before 2026-07-28 has agreed on with the server by `initialize`, so that it can be agreed on again
//! where a server has forgotten it, or a connection has broken.

use std::sync::{Mutex, PoisonError};

use http::HeaderValue;

use super::line::Line;

/// The session, if there is one.
#[derive(Debug, Default)]
pub(super) struct Session(Mutex<State>);

#[derive(Clone, Debug, Default)]
struct State {
    initialize: Option<Vec<u8>>,
    negotiated: Option<String>,
    id: Option<HeaderValue>,
    /// How often it was begun anew.
    generation: u64,
}

/// What requests say of the session.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    /// The revision.
    pub(super) negotiated: Option<String>,
    /// The server's own id for it.
    pub(super) id: Option<HeaderValue>,
    /// Which of several it is.
    pub(super) generation: u64,
}

impl Session {
    /// What a message of it says.
    pub(super) fn said(&self) -> Said {
        let state = self.state();
        Said { negotiated: state.negotiated.clone(), id: state.id.clone(), generation: state.generation }
    }

    /// The client's `initialize`, to say it again.
    pub(super) fn initialize(&self) -> Option<Line> {
        Line::read(self.state().initialize.clone()?).ok()
    }

    /// A client begins one: nothing of an older one counts.
    pub(super) fn begins(&self, initialize: &Line) {
        let mut state = self.state();
        let generation = state.generation + 1;
        *state = State { initialize: Some(initialize.body.clone()), generation, ..State::default() };
    }

    /// Takes what the answer to `initialize` says.
    pub(super) fn answered(&self, answer: &[u8]) {
        let answer: Option<serde_json::Value> = serde_json::from_slice(answer).ok();
        let revision = answer.as_ref().and_then(|answer| answer.pointer("/result/protocolVersion")?.as_str());
        if let Some(revision) = revision {
            self.state().negotiated = Some(revision.to_owned());
        }
    }

    /// Takes the id that came with it.
    pub(super) fn is_named(&self, id: Option<HeaderValue>) {
        self.state().id = id;
    }

    /// It is begun anew: whether nobody has done so since that generation.
    pub(super) fn begins_anew(&self, generation: u64) -> bool {
        let mut state = self.state();
        let first = state.generation == generation;
        if first {
            state.generation += 1;
        }
        first
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
