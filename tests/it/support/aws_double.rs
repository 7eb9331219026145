//! A double of STS and EC2 for what no emulator has: paging, throttling, duplicates, faults, and a record of every
//! request. It speaks the query protocol, so the real SDK talks to it over the wire.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use whitelistmcp::operation::address::Block;

use super::{ACCOUNT, AwsAccess, GROUP, OTHER_GROUP};

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
    /// No answer for that long.
    Hang(Duration),
    /// Somebody else makes the same rule first.
    Race,
    /// None: this request is answered as it should be.
    Pass,
}

#[derive(Clone, Debug)]
struct Rule {
    id: String,
    group: String,
    egress: bool,
    protocol: String,
    from: i32,
    to: i32,
    source: (&'static str, String),
    description: String,
    tags: BTreeMap<String, String>,
}

/// Looks at a request before it is answered.
type Watcher = Box<dyn Fn(&Asked) + Send>;

#[derive(Default)]
struct Account {
    groups: Vec<String>,
    rules: Vec<Rule>,
    asked: Vec<Asked>,
    faults: BTreeMap<String, VecDeque<Fault>>,
    made: u64,
    page: usize,
    seen: Option<Watcher>,
}

#[derive(Clone)]
pub(crate) struct AwsDouble {
    endpoint: String,
    account: Arc<Mutex<Account>>,
}

impl AwsDouble {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let account =
            Account { groups: vec![GROUP.to_owned(), OTHER_GROUP.to_owned()], page: 1000, ..Account::default() };
        let double = Self { endpoint, account: Arc::new(Mutex::new(account)) };
        // Like every group of AWS, each lets everything out.
        for group in [GROUP, OTHER_GROUP] {
            double.add(group, "-1", -1, -1, ("CidrIpv4", "0.0.0.0/0"), true);
        }
        let router = axum::Router::new().fallback(answer).with_state(double.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
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

    /// Makes a rule that this service did not make.
    pub(crate) fn rule(&self, protocol: &str, from: i32, to: i32, source: (&'static str, &str)) -> String {
        self.add(GROUP, protocol, from, to, source, false)
    }

    fn add(
        &self,
        group: &str,
        protocol: &str,
        from: i32,
        to: i32,
        source: (&'static str, &str),
        egress: bool,
    ) -> String {
        let mut account = self.lock();
        let id = account.next_id();
        let rule = Rule {
            id: id.clone(),
            group: group.to_owned(),
            egress,
            protocol: protocol.to_owned(),
            from,
            to,
            source: (source.0, source.1.to_owned()),
            description: "by hand".to_owned(),
            tags: BTreeMap::new(),
        };
        account.rules.push(rule);
        id
    }

    /// Takes every rule of the group away, the one that lets everything out as well.
    pub(crate) fn strip(&self, group: &str) {
        self.lock().rules.retain(|rule| rule.group != group);
    }

    /// Lets a group be gone.
    pub(crate) fn forget(&self, group: &str) {
        self.strip(group);
        self.lock().groups.retain(|known| known != group);
    }

    /// The tags of every inbound rule, by rule id.
    pub(crate) fn tags(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        self.lock().rules.iter().filter(|rule| !rule.egress).map(|rule| (rule.id.clone(), rule.tags.clone())).collect()
    }

    pub(crate) fn page_of(&self, rules: usize) {
        self.lock().page = rules;
    }

    pub(crate) fn fail(&self, action: &str, fault: Fault) {
        self.lock().faults.entry(action.to_owned()).or_default().push_back(fault);
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Account> {
        self.account.lock().expect("not poisoned")
    }
}

async fn answer(State(double): State<AwsDouble>, headers: HeaderMap, body: String) -> Response {
    let params: BTreeMap<String, String> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let action = params.get("Action").cloned().unwrap_or_default();
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let key = authorization
        .split("Credential=")
        .nth(1)
        .and_then(|rest| rest.split('/').next())
        .unwrap_or_default()
        .to_owned();
    let asked = Asked { action: action.clone(), key, params };
    let fault = {
        let mut account = double.lock();
        if let Some(see) = &account.seen {
            see(&asked);
        }
        account.asked.push(asked.clone());
        account.faults.get_mut(&action).and_then(VecDeque::pop_front)
    };
    let service = if action == "AssumeRole" || action == "GetCallerIdentity" { "sts" } else { "ec2" };
    match fault {
        Some(Fault::Refuse(status, code)) => return refuse(service, status, code),
        Some(Fault::Hang(time)) => tokio::time::sleep(time).await,
        Some(Fault::ActThenCut) => {
            double.lock().act(&asked).expect("it is carried out");
            // A body that ends before its announced length: the client sees the connection break.
            let body = axum::body::Body::from_stream(futures_util::stream::once(async {
                Err::<bytes::Bytes, _>(std::io::Error::other("cut"))
            }));
            return Response::builder().header("content-length", "100").body(body).expect("an answer");
        }
        Some(Fault::Race) => {
            double.lock().act(&asked).expect("somebody else was first");
            let mut account = double.lock();
            if let Some(rule) = account.rules.last_mut() {
                rule.tags.clear();
            }
        }
        Some(Fault::Pass) | None => {}
    }
    let answered = double.lock().act(&asked);
    match answered {
        Ok(xml) => (StatusCode::OK, [("content-type", "text/xml"), ("x-amzn-requestid", "req-1")], xml).into_response(),
        Err((status, code)) => refuse(service, status, code),
    }
}

fn refuse(service: &str, status: u16, code: &str) -> Response {
    let xml = if service == "ec2" {
        format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>as told</Message></Error></Errors><RequestID>req-1</RequestID></Response>"
        )
    } else {
        format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code><Message>as told</Message></Error><RequestId>req-1</RequestId></ErrorResponse>"
        )
    };
    (StatusCode::from_u16(status).expect("a status"), [("content-type", "text/xml")], xml).into_response()
}

impl Account {
    fn next_id(&mut self) -> String {
        self.made += 1;
        format!("sgr-{:017x}", self.made)
    }

    fn act(&mut self, asked: &Asked) -> Result<String, (u16, &'static str)> {
        let p = |key: &str| asked.params.get(key).cloned().unwrap_or_default();
        match asked.action.as_str() {
            "AssumeRole" => {
                self.made += 1;
                Ok(format!(
                    "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials><AccessKeyId>ASIASESSION{:09}</AccessKeyId><SecretAccessKey>session-secret</SecretAccessKey><SessionToken>session-token</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials><AssumedRoleUser><AssumedRoleId>AROA:x</AssumedRoleId><Arn>arn:aws:sts::{ACCOUNT}:assumed-role/r/x</Arn></AssumedRoleUser><PackedPolicySize>40</PackedPolicySize></AssumeRoleResult><ResponseMetadata><RequestId>req-1</RequestId></ResponseMetadata></AssumeRoleResponse>",
                    self.made
                ))
            }
            "DescribeSecurityGroupRules" => {
                let group = p("Filter.1.Value.1");
                let from: usize = p("NextToken").parse().unwrap_or(0);
                let rules: Vec<&Rule> = self.rules.iter().filter(|rule| rule.group == group).collect();
                let page: String = rules.iter().skip(from).take(self.page).map(|rule| rule.xml()).collect();
                let next = from + self.page;
                let token = if next < rules.len() { format!("<nextToken>{next}</nextToken>") } else { String::new() };
                Ok(ec2(
                    "DescribeSecurityGroupRules",
                    &format!("<securityGroupRuleSet>{page}</securityGroupRuleSet>{token}"),
                ))
            }
            "DescribeSecurityGroups" => {
                let group = p("GroupId.1");
                if !self.groups.contains(&group) {
                    return Err((400, "InvalidGroup.NotFound"));
                }
                Ok(ec2(
                    "DescribeSecurityGroups",
                    &format!("<securityGroupInfo><item><groupId>{group}</groupId></item></securityGroupInfo>"),
                ))
            }
            "AuthorizeSecurityGroupIngress" => {
                let group = p("GroupId");
                if !self.groups.contains(&group) {
                    return Err((400, "InvalidGroup.NotFound"));
                }
                let source = match asked.params.get("IpPermissions.1.Ipv6Ranges.1.CidrIpv6") {
                    Some(cidr) => ("CidrIpv6", cidr.clone()),
                    None => ("CidrIpv4", p("IpPermissions.1.IpRanges.1.CidrIp")),
                };
                let description =
                    [p("IpPermissions.1.IpRanges.1.Description"), p("IpPermissions.1.Ipv6Ranges.1.Description")]
                        .concat();
                let tags = (1..=50).map_while(|n| {
                    Some((
                        asked.params.get(&format!("TagSpecification.1.Tag.{n}.Key"))?.clone(),
                        p(&format!("TagSpecification.1.Tag.{n}.Value")),
                    ))
                });
                let rule = Rule {
                    id: String::new(),
                    group,
                    egress: false,
                    protocol: p("IpPermissions.1.IpProtocol"),
                    from: p("IpPermissions.1.FromPort").parse().unwrap_or(-1),
                    to: p("IpPermissions.1.ToPort").parse().unwrap_or(-1),
                    source,
                    description,
                    tags: tags.collect(),
                };
                // As AWS does: neither description nor tags tell two rules apart.
                if self.rules.iter().any(|other| other.tuple() == rule.tuple()) {
                    return Err((400, "InvalidPermission.Duplicate"));
                }
                if self.rules.iter().filter(|other| other.group == rule.group && !other.egress).count() >= 60 {
                    return Err((400, "RulesPerSecurityGroupLimitExceeded"));
                }
                let rule = Rule { id: self.next_id(), ..rule };
                let xml = rule.xml();
                self.rules.push(rule);
                Ok(ec2(
                    "AuthorizeSecurityGroupIngress",
                    &format!("<return>true</return><securityGroupRuleSet>{xml}</securityGroupRuleSet>"),
                ))
            }
            "RevokeSecurityGroupIngress" => {
                let ids: Vec<String> =
                    (1..=100).map_while(|n| asked.params.get(&format!("SecurityGroupRuleId.{n}")).cloned()).collect();
                if ids.is_empty() || !ids.iter().all(|id| self.rules.iter().any(|rule| rule.id == *id && !rule.egress))
                {
                    return Err((400, "InvalidSecurityGroupRuleId.NotFound"));
                }
                self.rules.retain(|rule| !ids.contains(&rule.id));
                Ok(ec2("RevokeSecurityGroupIngress", "<return>true</return>"))
            }
            _ => Err((400, "InvalidAction")),
        }
    }
}

impl Rule {
    fn tuple(&self) -> (String, bool, String, i32, i32, String) {
        let source = Block::from_aws(&self.source.1).map_or_else(|| self.source.1.clone(), |block| block.to_string());
        (self.group.clone(), self.egress, self.protocol.clone(), self.from, self.to, source)
    }

    fn xml(&self) -> String {
        let source = match self.source.0 {
            "CidrIpv6" => format!("<cidrIpv6>{}</cidrIpv6>", self.source.1),
            "PrefixListId" => format!("<prefixListId>{}</prefixListId>", self.source.1),
            "Group" => format!("<referencedGroupInfo><groupId>{}</groupId></referencedGroupInfo>", self.source.1),
            _ => format!("<cidrIpv4>{}</cidrIpv4>", self.source.1),
        };
        let tags: String = self
            .tags
            .iter()
            .map(|(key, value)| format!("<item><key>{key}</key><value>{value}</value></item>"))
            .collect();
        format!(
            "<item><securityGroupRuleId>{}</securityGroupRuleId><groupId>{}</groupId><groupOwnerId>{ACCOUNT}</groupOwnerId><isEgress>{}</isEgress><ipProtocol>{}</ipProtocol><fromPort>{}</fromPort><toPort>{}</toPort>{source}<description>{}</description><tagSet>{tags}</tagSet></item>",
            self.id, self.group, self.egress, self.protocol, self.from, self.to, self.description
        )
    }
}

fn ec2(action: &str, inner: &str) -> String {
    format!(
        "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>req-1</requestId>{inner}</{action}Response>"
    )
}
