//! A double of STS and EC2 for what no emulator has: paging, throttling, duplicates, limits, session policies, late
//! reads, faults, and a record of every request and change. It speaks the query protocol, so the real SDK talks to it
//! over the wire.

mod authorization;
mod by_hand;
mod describe;
mod glob;
mod history;
mod params;
mod resources;
mod rules;
mod server;
mod session;
mod session_policy;
mod tagging;
mod throttle;
mod world;
mod xml;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::{ACCOUNT, AwsAccess, GROUP, OTHER_GROUP, REGION};
pub(crate) use history::{Change, Standing, What};
pub(crate) use resources::{NetworkInterface, PrefixList};
use throttle::Bucket;
use world::World;

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) action: String,
    /// The access key that signed it.
    pub(crate) key: String,
    pub(crate) params: BTreeMap<String, String>,
}

/// What goes wrong with the next request of an action.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// An error, with HTTP status and code.
    Refuse(u16, &'static str),
    /// The request is carried out, and the connection is cut instead of an answer.
    ActThenCut,
    /// The request is carried out, and no answer comes for that long.
    ActThenHang(Duration),
    /// No answer for that long, and only then is the request carried out.
    Hang(Duration),
    /// No answer, ever; the request is carried out that much later, whoever is still there.
    ActLate(Duration),
    /// Somebody else makes the same rule first.
    Race,
    /// None: this request is answered as it should be.
    Pass,
}

/// Why a request is refused: HTTP status and code.
type Refusal = (u16, &'static str);

#[derive(Clone)]
pub(crate) struct AwsDouble {
    endpoint: String,
    world: Arc<Mutex<World>>,
    down: Arc<watch::Sender<bool>>,
}

impl AwsDouble {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let double = Self { endpoint, world: Arc::default(), down: Arc::new(watch::Sender::new(false)) };
        for (name, id) in double.access().groups {
            double.add_group(ACCOUNT, REGION, &id, &name, &[]);
        }
        tokio::spawn(server::serve(listener, double.clone(), double.down.subscribe()));
        double
    }

    pub(crate) fn access(&self) -> AwsAccess {
        AwsAccess {
            endpoint: self.endpoint.clone(),
            account: ACCOUNT.to_owned(),
            role_arn: format!("arn:aws:iam::{ACCOUNT}:role/whitelistmcp-target"),
            external_id: "test-external-id".to_owned(),
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: "base-secret".to_owned(),
            groups: vec![
                ("staging-db".to_owned(), GROUP.to_owned()),
                ("payroll-db".to_owned(), OTHER_GROUP.to_owned()),
            ],
        }
    }

    /// The most items of one page of any Describe.
    pub(crate) fn page_of(&self, items: usize) {
        self.lock().page = items;
    }

    /// How many inbound rules of each family a group takes; 60 unless told.
    pub(crate) fn rule_limit(&self, rules: usize) {
        self.lock().rule_limit = rules;
    }

    pub(crate) fn fail(&self, action: &str, fault: Fault) {
        self.lock().faults.entry(action.to_owned()).or_default().push_back(fault);
    }

    /// Gives an action a token bucket for each account and Region: beyond it, requests are refused as throttled.
    pub(crate) fn bucket(&self, action: &str, capacity: u32, refill_per_second: f64) {
        self.lock().buckets.insert(action.to_owned(), Bucket::new(capacity, refill_per_second));
    }

    /// Nothing answers any more that asks for a session in an account, nor says that it does not.
    pub(crate) fn black_hole(&self, account: &str) {
        self.lock().black_hole = Some(format!("::{account}:"));
    }

    /// While down, every connection is cut without an answer, those that are open as well.
    pub(crate) fn down(&self, down: bool) {
        self.down.send_replace(down);
    }

    /// Lends the base role for that token of another cloud, for so many seconds each time.
    pub(crate) fn web_identity(&self, token: &str, seconds: i64) {
        self.lock().web_identity = Some((token.to_owned(), seconds));
    }

    /// How many seconds AWS's clock is ahead of the machine's.
    pub(crate) fn clock_offset(&self, seconds: i64) {
        self.lock().clock_offset = seconds;
    }

    /// Lets every Describe answer with the rules, groups and tags as they stood that long ago. Changes are checked
    /// against, and made on, what stands now.
    pub(crate) fn read_delay(&self, delay: Duration) {
        self.lock().read_delay = delay;
    }

    /// Looks at every request before it is answered.
    pub(crate) fn watch(&self, see: impl Fn(&Asked) + Send + 'static) {
        self.lock().seen = Some(Box::new(see));
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    pub(crate) fn actions(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.action).collect()
    }

    /// Every change to an inbound rule or to a group's tags, in order.
    pub(crate) fn history(&self) -> Vec<Change> {
        self.lock().history.clone()
    }

    /// Every inbound rule as it stands now.
    pub(crate) fn standing(&self) -> Vec<Standing> {
        self.lock().standing().collect()
    }

    /// The tags of every inbound rule, by rule id.
    pub(crate) fn tags(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        self.lock().standing().map(|rule| (rule.id, rule.tags)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("not poisoned")
    }
}
