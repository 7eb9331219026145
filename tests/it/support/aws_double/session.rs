//! STS: who asks, and the sessions that AssumeRole hands out.

use std::sync::Arc;

use axum::http::HeaderMap;

use super::params::Params;
use super::resources::Where;
use super::session_policy::Policy;
use super::world::World;
use super::{ACCOUNT, Asked, REGION, Refusal, xml};

/// The most characters of a session policy.
const POLICY_MOST: usize = 2048;

/// A session that AssumeRole handed out.
pub(super) struct Session {
    account: String,
    role: String,
    name: String,
    policy: Option<Policy>,
}

/// What the signature of a request says.
#[derive(Clone, Debug)]
pub(super) struct Signature {
    pub(super) key: String,
    region: String,
}

/// Who asks, and where.
pub(super) struct Caller {
    pub(super) at: Where,
    /// The session's name, or the access key itself.
    pub(super) name: String,
    pub(super) session: Option<Arc<Session>>,
}

impl Session {
    pub(super) fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref()
    }

    fn arn(&self) -> String {
        format!("arn:aws:sts::{}:assumed-role/{}/{}", self.account, self.role, self.name)
    }
}

impl Signature {
    /// Reads `Credential=KEY/DATE/REGION/SERVICE/aws4_request`.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut scope = authorization.split("Credential=").nth(1).unwrap_or_default().split('/');
        let key = scope.next().unwrap_or_default().to_owned();
        Self { key, region: scope.nth(1).unwrap_or(REGION).to_owned() }
    }
}

impl World {
    /// Who signed; nobody, if it is a session's key that was never handed out.
    pub(super) fn caller(&self, signature: &Signature) -> Option<Caller> {
        let session = self.sessions.get(&signature.key).cloned();
        if session.is_none() && signature.key.starts_with("ASIA") {
            return None;
        }
        let account = session.as_ref().map_or(ACCOUNT, |session| &session.account);
        Some(Caller {
            at: Where::new(account, &signature.region),
            name: session.as_ref().map_or(&signature.key, |session| &session.name).clone(),
            session,
        })
    }

    pub(super) fn assume_role(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let p = Params(&asked.params);
        let invalid = (400, "ValidationError");
        let ["arn", _, "iam", "", account, role] = *p.required("RoleArn")?.splitn(6, ':').collect::<Vec<_>>() else {
            return Err(invalid);
        };
        let role = role.rsplit('/').next().unwrap_or(role);
        let policy = match p.get("Policy") {
            Some(text) if text.chars().count() > POLICY_MOST => return Err(invalid),
            Some(text) => Some(Policy::parse(text).ok_or((400, "MalformedPolicyDocument"))?),
            None => None,
        };
        let name = p.required("RoleSessionName")?.to_owned();
        let session = Session { account: account.to_owned(), role: role.to_owned(), name, policy };
        let key = format!("ASIASESSION{:09}", self.number());
        let credentials = [
            xml::text("AccessKeyId", &key),
            xml::text("SecretAccessKey", "session-secret"),
            xml::text("SessionToken", "session-token"),
            xml::text("Expiration", "2099-01-01T00:00:00Z"),
        ];
        let user = [xml::text("AssumedRoleId", &format!("AROA:{}", session.name)), xml::text("Arn", &session.arn())];
        let inner = format!(
            "<Credentials>{}</Credentials><AssumedRoleUser>{}</AssumedRoleUser><PackedPolicySize>40</PackedPolicySize>",
            credentials.concat(),
            user.concat()
        );
        self.sessions.insert(key, Arc::new(session));
        Ok(xml::sts("AssumeRole", &inner))
    }
}

impl World {
    /// A session for a token that another cloud has signed. Nobody signs the request.
    pub(super) fn assume_role_with_web_identity(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let p = Params(&asked.params);
        let token = p.required("WebIdentityToken")?;
        let Some((_, seconds)) = self.web_identity.clone().filter(|(known, _)| known == token) else {
            return Err((400, "InvalidIdentityToken"));
        };
        if !asked.key.is_empty() {
            return Err((400, "ValidationError"));
        }
        let ["arn", _, "iam", "", account, role] = *p.required("RoleArn")?.splitn(6, ':').collect::<Vec<_>>() else {
            return Err((400, "ValidationError"));
        };
        let role = role.rsplit('/').next().unwrap_or(role);
        let name = p.required("RoleSessionName")?.to_owned();
        let session = Session { account: account.to_owned(), role: role.to_owned(), name, policy: None };
        let key = format!("ASIAFEDERATED{:07}", self.number());
        let until = self.now() + jiff::SignedDuration::from_secs(seconds);
        let credentials = [
            xml::text("AccessKeyId", &key),
            xml::text("SecretAccessKey", "federated-secret"),
            xml::text("SessionToken", "federated-session-token"),
            xml::text("Expiration", &until.to_string()),
        ];
        self.sessions.insert(key, Arc::new(session));
        let inner = format!("<Credentials>{}</Credentials>", credentials.concat());
        Ok(xml::sts("AssumeRoleWithWebIdentity", &inner))
    }
}

/// Who the caller is.
pub(super) fn identity(caller: &Caller) -> String {
    let arn = match &caller.session {
        Some(session) => session.arn(),
        // One user has two keys.
        None if caller.name.ends_with("EXAMPLE") => format!("arn:aws:iam::{}:user/whitelistmcp", caller.at.account),
        None => format!("arn:aws:iam::{}:user/{}", caller.at.account, caller.name),
    };
    let inner =
        [xml::text("Arn", &arn), xml::text("UserId", &caller.name), xml::text("Account", &caller.at.account)].concat();
    xml::sts("GetCallerIdentity", &inner)
}
