//! The configuration of one person who runs the service for themselves: a file if there is one, and defaults that need none.

use std::path::{Path, PathBuf};

use super::{Config, ConfigError};

/// Where the file is, below the directory for configuration.
const FILE: &str = "whitelistmcp/config.toml";
/// Where the journal is, below the directory for state.
const JOURNAL: &str = "whitelistmcp/journal";

impl Config {
    /// Reads the file that is named, or else `whitelistmcp/config.toml` in the person's directory for configuration if it is
    /// there, and the environment over it. The journal is in their directory for state unless something else is said.
    ///
    /// Source: <https://specifications.freedesktop.org/basedir-spec/latest/>.
    pub fn of_person(named: Option<&Path>, environment: &[(String, String)]) -> Result<Self, ConfigError> {
        let below = |variable: &str, home: &str, rest: &str| {
            let base = directory(environment, variable).or_else(|| Some(directory(environment, "HOME")?.join(home)));
            base.map(|base| base.join(rest))
        };
        let found = named
            .map(Path::to_owned)
            .or_else(|| below("XDG_CONFIG_HOME", ".config", FILE).filter(|path| path.exists()));
        let mut config = match found {
            Some(path) => Self::load(&path, environment.iter().cloned())?,
            None => Self::of_environment(environment.iter().cloned())?,
        };
        if config.audit.directory.is_none() {
            config.audit.directory = below("XDG_STATE_HOME", ".local/state", JOURNAL);
        }
        // It would ask AWS again and again, and tell nobody.
        config.health.self_test = None;
        // What a server is.
        (config.edge, config.core, config.api_keys) = (None, None, None);
        config.oidc.clear();
        Ok(config)
    }
}

/// The absolute directory that a variable names; a relative one is to be ignored.
fn directory(environment: &[(String, String)], variable: &str) -> Option<PathBuf> {
    let value = environment.iter().find(|(name, _)| name == variable).map(|(_, value)| PathBuf::from(value));
    value.filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(named: Option<&Path>, environment: &[(&str, &Path)]) -> Result<Config, ConfigError> {
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        let environment: Vec<_> = environment.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect();
        Config::of_person(named, &environment)
    }

    #[test]
    fn a_person_needs_no_file_and_their_own_counts() {
        let home = std::env::temp_dir().join(format!("whitelistmcp-personal-{}", uuid::Uuid::new_v4()));
        let place = home.join(".config/whitelistmcp");
        std::fs::create_dir_all(&place).expect("a directory");
        let journal = |config: &Config| config.audit.directory.clone();
        let config = of(None, &[("HOME", &home)]).expect("sound");
        assert_eq!(journal(&config), Some(home.join(".local/state/whitelistmcp/journal")));
        assert!(config.health.self_test.is_none() && config.aws.accounts.is_empty());
        let state = home.join("state");
        let relative = Path::new("relative");
        let config = of(None, &[("HOME", &home), ("XDG_STATE_HOME", &state), ("XDG_CONFIG_HOME", relative)]);
        assert_eq!(journal(&config.expect("sound")), Some(state.join("whitelistmcp/journal")));
        assert_eq!(journal(&of(None, &[]).expect("sound")), None, "nowhere to keep it, so nothing is changed");

        let server =
            "[edge]\npublic_url = \"https://x/mcp\"\n[targets]\nregion = \"eu-west-1\"\n[audit]\ndirectory = \"/j\"\n";
        std::fs::write(place.join("config.toml"), server).expect("written");
        let config = of(None, &[("HOME", &home)]).expect("sound");
        assert_eq!((journal(&config), config.edge.is_none()), (Some(PathBuf::from("/j")), true));
        assert_eq!(config.targets.region.as_deref(), Some("eu-west-1"));
        let elsewhere = [("HOME", home.as_path()), ("XDG_CONFIG_HOME", state.as_path())];
        assert_eq!(of(None, &elsewhere).expect("sound").targets.region, None);
        let variable = ("WHITELISTMCP_TARGETS__REGION", Path::new("eu-west-3"));
        let config = of(None, &[("HOME", &home), variable]).expect("sound");
        assert_eq!(config.targets.region.as_deref(), Some("eu-west-3"));
        let missing = home.join("missing.toml");
        assert!(matches!(of(Some(&missing), &[("HOME", &home)]), Err(ConfigError::Read { .. })));
        std::fs::remove_dir_all(&home).expect("removed");
    }
}
