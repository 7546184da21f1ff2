//! What a server shows of itself → who runs it, and so how its settings and roles are changed.

use crate::{
    postgres::{address::Address, address::Endpoint, server::Server},
    quote,
};

/// Who runs the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    /// Whoever can run ALTER SYSTEM and restart it.
    Plain,
    /// RDS or Aurora.
    Amazon,
    /// Cloud SQL.
    Google,
    /// Azure Database.
    Azure,
    /// Supabase.
    Supabase,
    /// Neon.
    Neon,
    /// Another host, whose console has the settings.
    Managed(&'static str),
}

/// Host, the end of its servers' names, a role that only it has, and what its own settings begin with.
const SIGNS: &[(Host, &str, &str, &str)] = &[
    // Supabase and Neon run on other hosts' machines, so they come first.
    (Host::Supabase, ".supabase.co", "supabase_admin", "supautils"),
    (Host::Supabase, ".pooler.supabase.com", "supabase_admin", "supautils"),
    (Host::Neon, ".neon.tech", "neon_superuser", "neon"),
    (Host::Amazon, ".rds.amazonaws.com", "rds_superuser", "rds"),
    (Host::Google, ".sql.goog", "cloudsqlsuperuser", "cloudsql"),
    (Host::Azure, ".postgres.database.azure.com", "azure_pg_admin", "azure"),
    (Host::Managed("Crunchy Bridge"), ".postgresbridge.com", "crunchy_superuser", "crunchy"),
    (Host::Managed("Aiven"), ".aivencloud.com", "_aiven", "aiven"),
    (Host::Managed("DigitalOcean"), ".ondigitalocean.com", "doadmin", "doadmin"),
];

impl Host {
    /// Who runs a server that shows this.
    pub(super) fn of(server: &Server, address: &Address) -> Self {
        let endpoints = address.endpoints();
        let at = |end: &str| {
            endpoints.iter().any(|endpoint| match endpoint {
                Endpoint::Tcp { host, .. } => host.ends_with(end),
                Endpoint::Unix(_) => false,
            })
        };
        let shows = |(_, end, role, prefix): &&(Host, &str, &str, &str)| {
            at(end)
                || server.roles.iter().any(|known| known == role)
                || server.prefixes.iter().any(|known| known == prefix)
        };
        SIGNS.iter().find(shows).map_or(Self::Plain, |(host, ..)| *host)
    }

    /// How a setting of the server is changed. `restart` where a reload does not do.
    pub(super) fn setting(self, name: &str, value: &str, restart: bool) -> Vec<String> {
        let wal_level = name == "wal_level";
        match self {
            Self::Plain => {
                let then = if restart {
                    "restart the server".to_owned()
                } else {
                    "select pg_reload_conf();".to_owned()
                };
                vec![format!("alter system set {name} = '{value}';"), then]
            }
            Self::Amazon if wal_level => vec![
                "in the parameter group of the instance or cluster: rds.logical_replication = 1"
                    .to_owned(),
                "reboot the instance, or the cluster's writer".to_owned(),
            ],
            Self::Amazon => vec![
                format!("in the parameter group of the instance or cluster: {name} = {value}"),
                "reboot the instance where the group says pending-reboot".to_owned(),
            ],
            Self::Google if wal_level => vec![
                "set the instance's flag cloudsql.logical_decoding = on; Cloud SQL restarts it"
                    .to_owned(),
            ],
            Self::Google => vec![format!("set the instance's flag {name} = {value}")],
            Self::Azure => {
                let value = if wal_level { "LOGICAL" } else { value };
                let mut steps = vec![format!("among the server's parameters: {name} = {value}")];
                steps.extend(restart.then(|| "restart the server in the portal".to_owned()));
                steps
            }
            Self::Supabase => vec![format!(
                "supabase --experimental --project-ref PROJECT postgres-config update --config {name}={value}"
            )],
            Self::Neon if wal_level => {
                vec!["in the project's settings at Neon: enable logical replication".to_owned()]
            }
            Self::Neon => {
                vec![format!("{name} is Neon's to set: ask its support for {name} = {value}")]
            }
            Self::Managed(host) => {
                vec![format!("in the console of {host}: {name} = {value}")]
            }
        }
    }

    /// How a role comes to read the log.
    pub(super) fn replication(self, role: &str) -> Vec<String> {
        let role = quote::name(role);
        match self {
            Self::Amazon => vec![format!("grant rds_replication to {role};")],
            Self::Plain => vec![format!("alter role {role} replication;")],
            Self::Google => vec![
                "as a user that Cloud SQL made, such as postgres:".to_owned(),
                format!("alter role {role} replication;"),
            ],
            Self::Azure => vec![
                "as the server's administrator:".to_owned(),
                format!("alter role {role} replication;"),
            ],
            Self::Supabase => vec![
                "as postgres, in the SQL editor:".to_owned(),
                format!("alter role {role} replication;"),
            ],
            Self::Neon => vec![
                "as the owner of the project, or make the role in the console, where it has the right:"
                    .to_owned(),
                format!("alter role {role} replication;"),
            ],
            Self::Managed(_) => vec![
                "as the administrator that the host gave you:".to_owned(),
                format!("alter role {role} replication;"),
            ],
        }
    }

    /// Where the server itself answers, when a pooler does at the address.
    pub(super) fn direct(self, server: &Server, address: &Address) -> Vec<String> {
        let (user, database) = (address.user(), address.database());
        let seen = server.address.as_deref().zip(server.port);
        let (user, place) = match (self, address.endpoints().first()) {
            (Self::Neon, Some(Endpoint::Tcp { host, port, .. })) => {
                (user, format!("{}:{port}", host.replacen("-pooler.", ".", 1)))
            }
            // The pooler's users are ROLE.PROJECT.
            (Self::Supabase, _) => match user.split_once('.') {
                Some((user, project)) => (user, format!("db.{project}.supabase.co:5432")),
                None => (user, "db.PROJECT.supabase.co:5432".to_owned()),
            },
            (Self::Plain, _) => {
                let place = seen.map(|(host, port)| match host.contains(':') {
                    true => format!("[{host}]:{port}"),
                    false => format!("{host}:{port}"),
                });
                (user, place.unwrap_or_else(|| "HOST:5432".to_owned()))
            }
            _ => (user, "HOST:5432".to_owned()),
        };
        vec![format!(
            "in kck.toml, below [source]: replication_url = \"postgres://{user}@{place}/{database}\""
        )]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> Address {
        url.parse().unwrap()
    }

    fn check(url: &str, role: &str, prefix: &str, wanted: Host) {
        let server = Server {
            roles: vec![role.to_owned()],
            prefixes: vec!["plpgsql".to_owned(), prefix.to_owned()],
            ..Server::default()
        };
        assert_eq!(Host::of(&server, &at(url)), wanted, "{url} {role} {prefix}");
    }

    #[test]
    fn a_host_shows_by_its_name_a_role_or_a_setting() {
        const LOCAL: &str = "postgres://kck@10.0.0.1/shop";
        check(LOCAL, "", "", Host::Plain);
        check("postgres://kck@shop.abc.eu-west-1.rds.amazonaws.com/shop", "", "", Host::Amazon);
        check(LOCAL, "rds_superuser", "", Host::Amazon);
        check(LOCAL, "", "rds", Host::Amazon);
        check(LOCAL, "cloudsqlsuperuser", "", Host::Google);
        check(LOCAL, "", "azure", Host::Azure);
        check("postgres://kck@db.abc.supabase.co/postgres", "", "", Host::Supabase);
        check("postgres://kck@ep-a-1.eu-central-1.aws.neon.tech/shop", "", "", Host::Neon);
        check(LOCAL, "crunchy_superuser", "", Host::Managed("Crunchy Bridge"));
    }

    #[test]
    fn a_setting_is_changed_as_the_host_has_it() {
        for (host, says) in [
            (Host::Plain, "alter system set wal_level = 'logical';"),
            (Host::Amazon, "rds.logical_replication = 1"),
            (Host::Google, "cloudsql.logical_decoding = on"),
            (Host::Azure, "wal_level = LOGICAL"),
            (Host::Neon, "enable logical replication"),
            (Host::Managed("Aiven"), "in the console of Aiven"),
        ] {
            let steps = host.setting("wal_level", "logical", true);
            assert!(steps[0].contains(says), "{host:?}: {steps:?}");
        }
        let reload = Host::Plain.setting("max_slot_wal_keep_size", "20GB", false);
        assert_eq!(reload[1], "select pg_reload_conf();");
    }

    #[test]
    fn the_right_to_replicate_is_given_as_the_host_has_it() {
        assert_eq!(Host::Amazon.replication("k\"ck"), ["grant rds_replication to \"k\"\"ck\";"]);
        assert_eq!(Host::Plain.replication("kck"), ["alter role \"kck\" replication;"]);
        assert_eq!(Host::Google.replication("kck").len(), 2);
    }

    #[test]
    fn a_poolers_address_leads_to_the_servers_own() {
        let seen =
            Server { address: Some("10.0.0.7".into()), port: Some(5433), ..Server::default() };
        let check = |host: Host, url: &str, wanted: &str| {
            let steps = host.direct(&seen, &at(url));
            assert!(steps[0].contains(wanted), "{steps:?}");
        };
        check(Host::Plain, "postgres://kck@pooler:6432/shop", "postgres://kck@10.0.0.7:5433/shop");
        check(
            Host::Neon,
            "postgres://kck@ep-a-1-pooler.eu-central-1.aws.neon.tech/shop",
            "postgres://kck@ep-a-1.eu-central-1.aws.neon.tech:5432/shop",
        );
        check(
            Host::Supabase,
            "postgres://postgres.abc@aws-0-eu.pooler.supabase.com:6543/postgres",
            "postgres://postgres@db.abc.supabase.co:5432/postgres",
        );
    }
}
