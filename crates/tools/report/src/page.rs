//! The report as one HTML file. The templates lie in `templates/`.

use anyhow::Result;
use minijinja::{Environment, Value, context, syntax::SyntaxConfig, value::Serde};
use serde::Serialize;

use crate::chart::{Chart, Claim};
use crate::markdown::Section;
use crate::timeline::Timeline;

/// Everything that the page shows. Titles, leads and reasons are HTML; all else is text.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: String,
    /// Its version, if this machine has Python.
    pub python: Option<String>,
    pub took: String,
    pub questions: Vec<Question>,
    pub documents: Vec<Document>,
}

#[derive(Debug, Serialize)]
pub struct Question {
    /// The name of its folder.
    pub id: String,
    /// What stands before the title: `Question 1`.
    pub kicker: String,
    pub title: String,
    pub lead: String,
    pub programs: Vec<Program>,
    pub mistakes: Vec<Mistake>,
}

#[derive(Debug, Serialize)]
pub struct Program {
    pub name: String,
    pub title: String,
    pub lead: String,
    /// The file with `main` first.
    pub sources: Vec<Source>,
    /// The plain command first.
    pub runs: Vec<Run>,
    /// Of the first run that has left a trace.
    pub timeline: Option<Timeline>,
    pub python: Option<PythonRun>,
    /// The time of both languages.
    pub pace: Option<Chart>,
    pub figures: Option<Figures>,
}

#[derive(Debug, Serialize)]
pub struct Source {
    pub path: String,
    pub lines: usize,
    /// Highlighted.
    pub html: String,
}

/// A command and what it did.
#[derive(Debug, Serialize)]
pub struct Run {
    pub command: String,
    pub stdout: String,
    pub stderr: String,
    /// How it ended, if not with exit code 0.
    pub ending: Option<String>,
    pub time: String,
    pub seconds: f64,
    /// How it differs from the README.
    pub failures: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct PythonRun {
    pub source: Source,
    pub run: Option<Run>,
}

/// A Python program that does not work.
#[derive(Debug, Serialize)]
pub struct Mistake {
    pub name: String,
    pub reason: String,
    pub source: Source,
    pub run: Run,
    pub symptom: String,
    pub hangs: bool,
}

/// The claims of a measuring program.
#[derive(Debug, Serialize)]
pub struct Figures {
    pub command: String,
    pub time: String,
    pub claims: Vec<Claim>,
    pub charts: Vec<Chart>,
}

/// A page of `docs/`.
#[derive(Debug, Serialize)]
pub struct Document {
    pub id: String,
    pub title: String,
    pub sections: Vec<Section>,
}

pub fn render(report: &Report) -> Result<String> {
    let mut templates = Environment::new();
    templates.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    templates.add_template("page.html", include_str!("../templates/page.html"))?;
    templates.add_template("question.html", include_str!("../templates/question.html"))?;
    templates.add_template("document.html", include_str!("../templates/document.html"))?;
    templates.add_template("parts.html", include_str!("../templates/parts.html"))?;
    templates.add_template("style.css", include_str!("../templates/style.css"))?;
    Ok(templates
        .get_template("page.html")?
        .render(context! { report => Value::from(Serde(report)), ..counts(report) })?)
}

/// How many programs there are, and how many print what their READMEs show.
fn counts(report: &Report) -> Value {
    let programs = || report.questions.iter().flat_map(|question| &question.programs);
    let runs: Vec<_> = programs().flat_map(|program| &program.runs).collect();
    let python: Vec<_> = programs().filter_map(|program| program.python.as_ref()?.run.as_ref()).collect();
    let same = |runs: &[&Run]| runs.iter().filter(|run| run.failures.is_empty()).count();
    context! {
        programs => programs().count(),
        runs => runs.len(),
        same => same(&runs),
        python_runs => python.len(),
        python_same => same(&python),
    }
}
