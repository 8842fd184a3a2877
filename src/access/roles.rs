//! Roles and the actions that they allow.

/// What somebody may do. Later roles include nothing of the earlier ones by themselves: see [`Role::allows`].
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Live pictures only.
    Viewer,
    /// Live, recordings, alerts, channels, and the box's metrics.
    Operator,
    /// Alerts and their transitions.
    Dispatch,
    Admin,
}

/// What somebody wants to do; a token's scope is a choice of these.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Live,
    Recordings,
    Alerts,
    #[serde(rename = "transitions")]
    #[value(name = "transitions")]
    Transition,
    Channels,
    Metrics,
    /// Settings, people, tokens, the audit trail.
    Configure,
}

impl Role {
    const ALL: [Role; 4] = [Role::Viewer, Role::Operator, Role::Dispatch, Role::Admin];

    /// What the role may do, denied by default.
    pub fn allows(self, action: Action) -> bool {
        use Action::*;
        match self {
            Role::Viewer => matches!(action, Live),
            Role::Operator => matches!(action, Live | Recordings | Alerts | Channels | Metrics),
            Role::Dispatch => matches!(action, Alerts | Transition),
            Role::Admin => true,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Dispatch => "dispatch",
            Role::Admin => "admin",
        }
    }

    pub(super) fn named(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl Action {
    pub const ALL: [Action; 7] = [
        Action::Live,
        Action::Recordings,
        Action::Alerts,
        Action::Transition,
        Action::Channels,
        Action::Metrics,
        Action::Configure,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Action::Live => "live",
            Action::Recordings => "recordings",
            Action::Alerts => "alerts",
            Action::Transition => "transitions",
            Action::Channels => "channels",
            Action::Metrics => "metrics",
            Action::Configure => "configure",
        }
    }

    pub(super) fn named(name: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|action| action.name() == name)
    }
}
