//! Charts: bars, lines, and values that could make trouble.

use super::*;

fn measured(points: &str) -> Measured {
    let claim = r#"{"claim": "c", "how": "h", "figure": "f", "verdict": "holds", "points": "#;
    serde_json::from_str(&format!(r#"{{"machine": {{}}, "claims": [{claim}{points}}}]}}"#)).unwrap()
}

#[test]
fn labels_are_bars_from_nothing() {
    let points = r#"[{"chart": "C", "unit": "ms", "at": "one", "value": 4.0},
        {"chart": "C", "unit": "ms", "at": "two", "value": 1.0}]"#;
    let charts = measured(points).charts();
    let [Chart { bars, lines: None, logarithmic: false, .. }] = charts.as_slice() else {
        panic!("{charts:?}")
    };
    let bars: Vec<_> = bars.iter().map(|bar| (bar.label.as_str(), bar.width.as_str(), bar.series)).collect();
    assert_eq!(bars, [("one", "100.00%", 0), ("two", "25.00%", 0)]);
}

#[test]
fn bars_of_one_label_or_of_one_series_are_a_group() {
    let groups = |points: [(&str, &str); 4]| {
        let point = |(series, at): (&str, &str)| {
            format!(r#"{{"chart": "C", "unit": "ms", "series": "{series}", "at": "{at}", "value": 1}}"#)
        };
        let chart = measured(&format!("[{}]", points.map(point).join(", "))).charts().remove(0);
        let shown = chart.bars.into_iter().map(|bar| format!("{}|{}|{}", bar.group, bar.label, bar.series));
        shown.collect::<Vec<_>>()
    };
    let by_series = groups([("s", "a"), ("s", "b"), ("t", "a"), ("t", "b")]);
    assert_eq!(by_series, ["s|a|0", "|b|0", "t|a|1", "|b|1"]);
    let by_label = groups([("s", "a"), ("t", "a"), ("s", "b"), ("t", "b")]);
    assert_eq!(by_label, ["a|s|0", "|t|1", "b|s|0", "|t|1"]);
}

#[test]
fn values_of_several_decades_are_logarithmic() {
    let chart = bars("C", "µs", vec![(String::new(), 0, 1.0), (String::new(), 1, 1000.0)]);
    assert!(chart.logarithmic);
    assert_eq!(chart.bars[1].width, "100.00%");
    assert_eq!(chart.bars[0].width, "9.12%");
}

#[test]
fn numbers_are_points_of_lines() {
    let points = r#"[{"chart": "C", "unit": "ms", "along": "size", "series": "a", "at": 0.5, "value": 2.0},
        {"chart": "C", "unit": "ms", "along": "size", "series": "a", "at": 20, "value": 0.2},
        {"chart": "D", "unit": "ms", "at": "x", "value": 1}]"#;
    let charts = measured(points).charts();
    assert_eq!(charts.len(), 2);
    let lines = charts[0].lines.as_ref().unwrap();
    assert_eq!((lines.along.as_str(), lines.series[0].points.len()), ("size", 2));
    let ticks: Vec<_> = lines.x_ticks.iter().map(|tick| tick.text.as_str()).collect();
    assert_eq!(ticks, ["1", "10"]);
    assert_eq!(lines.y_ticks[0].text, "1");
}

#[test]
fn nothing_and_zeros_make_no_trouble() {
    assert!(measured("[]").charts().is_empty());
    assert_eq!(bars("", "", vec![(String::new(), 0, 0.0)]).bars[0].width, "0.00%");
}
