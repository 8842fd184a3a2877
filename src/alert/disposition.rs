//! What people did with an alert, and what they may do next: 上报 → 受理 → 派遣 → 处置 → 核查 → 结案.
//!
//! The steps are those of the field's platforms (发现上报, 受理派遣, 延期审核, 处理反馈, 任务核查, 结案). Of our own: what was
//! rejected can be accepted after all, since a slip of the hand must not bury a fire.

/// 上报, 受理, 误报 or 重复, 派遣, 退回, 延期, 处置, 核查, 返工, 结案.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// By the box; where every alert begins.
    Reported,
    /// Somebody in the centre takes it as real.
    Accepted,
    /// It is none, for a [`Reason`].
    Rejected,
    /// Somebody is sent.
    Assigned,
    /// They send it back: not theirs.
    Returned,
    /// They need longer.
    Extended,
    /// They say that it is done.
    Handled,
    /// The centre sees that it is.
    Verified,
    /// The centre sees that it is not.
    Rework,
    Closed,
}

/// Why an alert is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// 误报
    FalseAlarm,
    /// 重复
    Duplicate,
}

impl Disposition {
    /// What may follow.
    pub fn next(self) -> &'static [Disposition] {
        use Disposition::*;
        match self {
            Reported => &[Accepted, Rejected],
            Accepted => &[Assigned, Rejected],
            Rejected => &[Accepted],
            Assigned | Extended | Rework => &[Handled, Returned, Extended],
            Returned => &[Assigned, Rejected],
            Handled => &[Verified, Rework],
            Verified => &[Closed],
            Closed => &[],
        }
    }

    /// As JSON has it.
    pub fn as_str(self) -> &'static str {
        use Disposition::*;
        match self {
            Reported => "reported",
            Accepted => "accepted",
            Rejected => "rejected",
            Assigned => "assigned",
            Returned => "returned",
            Extended => "extended",
            Handled => "handled",
            Verified => "verified",
            Rework => "rework",
            Closed => "closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alert_can_be_closed_and_nothing_follows_that() {
        // Breadth first, from where alerts begin.
        let mut reached = vec![Disposition::Reported];
        let mut at = 0;
        while let Some(disposition) = reached.get(at) {
            for next in disposition.next() {
                if !reached.contains(next) {
                    reached.push(*next);
                }
            }
            at += 1;
        }
        assert_eq!(reached.len(), 10);
        for from in reached {
            let mut seen = vec![from];
            while let Some(next) = seen.iter().flat_map(|d| d.next()).find(|d| !seen.contains(d)) {
                seen.push(*next);
            }
            assert!(seen.contains(&Disposition::Closed), "{from:?} is a dead end");
            let json = serde_json::to_string(&from).unwrap();
            assert_eq!(json.trim_matches('"'), from.as_str());
        }
        assert!(Disposition::Closed.next().is_empty());
    }
}
