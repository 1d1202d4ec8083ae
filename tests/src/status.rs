//! Numbers of `netback status --json`, found by name at any depth below a part of the report.
use anyhow::{Context, Result};
use lab::{Host, Lab};
use serde_json::Value;

/// Returns every number with this name below `part`.
pub fn numbers(part: &Value, name: &str) -> Vec<u64> {
    match part {
        Value::Object(fields) => fields
            .iter()
            .flat_map(
                |(key, value)| match value.as_u64().filter(|_| key == name) {
                    Some(number) => vec![number],
                    None => numbers(value, name),
                },
            )
            .collect(),
        Value::Array(parts) => parts.iter().flat_map(|part| numbers(part, name)).collect(),
        _ => Vec::new(),
    }
}

/// Returns the only vif of a guest in the daemon's report.
pub fn vif(lab: &mut Lab, domid: u16) -> Result<Value> {
    let status = lab.daemon()?.status()?;
    let vifs = status["vifs"].as_array().context("status has no vifs")?;
    let vif = vifs.iter().find(|vif| vif["domid"] == domid);
    vif.cloned()
        .with_context(|| format!("status has no vif of domain {domid}: {status}"))
}

/// Returns a host's MAC address as `ip link` prints it.
pub fn mac(host: &Host) -> String {
    host.mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn numbers_are_found_at_any_depth_and_by_their_whole_name() {
        let report = serde_json::json!({"a": 1, "b": [{"a": 2, "aa": 3}, {"c": {"a": 4}}], "d": {"a": {"e": 5}}});
        let mut found = numbers(&report, "a");
        found.sort_unstable();
        assert_eq!(found, [1, 2, 4]);
        assert!(numbers(&report, "x").is_empty());
    }
}
