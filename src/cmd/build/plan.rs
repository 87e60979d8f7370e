//! The plan of a build: why each lab is built or skipped, and which stages the labs share. Planning
//! changes nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};

use super::common::Common;
use crate::config::{Desktop, Lab};
use crate::error::{Fault, Kind, kind_of};
use crate::images::base;
use crate::images::stages::Stage;
use crate::inputs::{Inputs, Why};
use crate::packer::branding::{self, Assets};
use crate::packer::provision::Provisioned;
use crate::packer::render;
use crate::packer::result;
use crate::packer::source::Source;
use crate::units::ByteSize;

/// How many digits of a hash identify a stage.
const KEY_DIGITS: usize = 16;

/// The plan.
pub struct Plan<'a> {
    /// The requested labs.
    pub labs: Vec<(&'a Lab, Result<PlannedLab<'a>>)>,
    /// The stages of all labs of the configuration.
    pub stages: Vec<PlannedStage<'a>>,
    /// Whether the stages of all labs are known.
    pub complete: bool,
}

/// A planned lab.
pub struct PlannedLab<'a> {
    pub lab: &'a Lab,
    pub provisioned: Provisioned,
    pub inputs: Inputs,
    pub why: Why,
    /// The index of its stage in the plan.
    pub stage: usize,
}

/// A stage that several labs share.
pub struct PlannedStage<'a> {
    /// Its name, which is derived from its inputs.
    pub key: String,
    /// One of its labs.
    pub lab: &'a Lab,
    pub source: Source,
    pub assets: Assets,
    pub desktop: Desktop,
    /// The smallest disk size among its labs: a disk can grow but not shrink.
    pub disk_size: ByteSize,
    /// Its result.
    pub done: OnceLock<Result<Stage, Fault>>,
}

impl<'a> Plan<'a> {
    /// Plans the requested labs, including what the other labs share with them.
    pub fn make(common: &Common<'a>, chosen: &[&'a Lab]) -> Plan<'a> {
        let mut drafts = Drafts::default();
        let mut complete = true;
        let mut found: HashMap<&str, Result<(usize, Inputs)>> = HashMap::new();
        for lab in &common.context.config.labs {
            let place = drafts.add(common, lab);
            complete &= place.is_ok();
            found.insert(lab.lab_id.as_str(), place);
        }
        let look = |lab: &'a Lab, (stage, shared): (usize, Inputs)| {
            let provisioned = Provisioned::of(lab)?;
            let inputs = lab_inputs(common, lab, shared, &provisioned);
            Ok(PlannedLab {
                why: why(common, lab, &inputs)?,
                lab,
                provisioned,
                inputs,
                stage,
            })
        };
        let labs = chosen.iter().filter_map(|lab| {
            let place = found.remove(lab.lab_id.as_str())?;
            Some((*lab, place.and_then(|place| look(lab, place))))
        });
        Plan {
            labs: labs.collect(),
            stages: drafts.finish(),
            complete,
        }
    }

    /// The stage of a lab.
    pub fn stage_of(&self, lab: &PlannedLab) -> Result<&PlannedStage<'a>> {
        let stage = self.stages.get(lab.stage);
        stage.context("the plan has no such stage")
    }

    /// The stages of the labs for which `wanted` is true, each once.
    pub fn stages_of(&self, wanted: impl Fn(&PlannedLab) -> bool) -> Vec<&PlannedStage<'a>> {
        let planned = self.labs.iter().filter_map(|(_, lab)| lab.as_ref().ok());
        let wanted = planned.filter(|lab| wanted(lab));
        let numbers: BTreeSet<usize> = wanted.map(|lab| lab.stage).collect();
        let stages = numbers.iter().filter_map(|number| self.stages.get(*number));
        stages.collect()
    }
}

/// Stages whose disk size may still be reduced.
#[derive(Default)]
struct Drafts<'a>(Vec<(Inputs, PlannedStage<'a>)>);

impl<'a> Drafts<'a> {
    /// The index of the stage of `lab`, and the inputs that a lab shares with its stage.
    fn add(&mut self, common: &Common<'a>, lab: &'a Lab) -> Result<(usize, Inputs)> {
        let (source, assets) = (Source::of(lab)?, branding::of(lab)?);
        let assets_all = assets.iter();
        let pieces = assets_all.flat_map(|(name, content)| [name.as_bytes(), content]);
        let shared = Inputs::default()
            .with("source image", &source.identity)
            .with_hash("branding", pieces)
            .with("desktop", lab.desktop.name())
            .with_tools(common.tools().as_deref());
        let of_stages = common.templates.of_stages(lab.desktop);
        let inputs = shared.clone().with_hash(
            "templates",
            of_stages.flat_map(|(name, content)| [name.as_bytes(), content]),
        );
        let same = self.0.iter_mut().zip(0..);
        let mut same = same.filter(|((other, _), _)| *other == inputs);
        if let Some(((_, stage), number)) = same.next() {
            stage.disk_size = stage.disk_size.min(lab.disk_size);
            return Ok((number, shared));
        }
        let stage = PlannedStage {
            key: String::new(),
            lab,
            source,
            assets,
            desktop: lab.desktop,
            disk_size: lab.disk_size,
            done: OnceLock::new(),
        };
        self.0.push((inputs, stage));
        Ok((self.0.len() - 1, shared))
    }

    fn finish(self) -> Vec<PlannedStage<'a>> {
        let named = |(inputs, stage): (Inputs, PlannedStage<'a>)| {
            let inputs = inputs.with("disk size", stage.disk_size.to_string());
            let key = inputs.fingerprint().chars().take(KEY_DIGITS).collect();
            PlannedStage { key, ..stage }
        };
        self.0.into_iter().map(named).collect()
    }
}

fn lab_inputs(common: &Common, lab: &Lab, shared: Inputs, provisioned: &Provisioned) -> Inputs {
    let templates = common.templates.of_labs(lab.desktop);
    shared
        .with_hash(
            "templates",
            templates.flat_map(|(name, content)| [name.as_bytes(), content]),
        )
        .with("disk size", lab.disk_size.to_string())
        .with_hash("packages", lab.packages.iter().map(|name| name.as_str()))
        .with_hash("message", [render::motd(lab)])
        .with_hash("provision", &provisioned.identity)
}

/// The decision for a lab with these `inputs`.
pub fn why(common: &Common, lab: &Lab, inputs: &Inputs) -> Result<Why> {
    let paths = &common.context.paths;
    let link = paths.base_link(&lab.lab_id);
    if common.dry_run && link.exists() && !link.is_symlink() {
        // It is not adopted yet, and adopting it changes something.
        return Ok(Why::Unknown);
    }
    let base = match base::current(paths, &lab.lab_id) {
        Err(error) if kind_of(&error) == Kind::NotFound => return Ok(Why::First),
        found => found?,
    };
    if common.force {
        return Ok(Why::Forced);
    }
    let Some(note) = base::note(&base) else {
        return Ok(Why::Unknown);
    };
    let whole = std::fs::metadata(&base.path).is_ok_and(|file| file.len() == note.size_bytes);
    let described = std::fs::read(paths.built_metadata(&lab.lab_id))
        .is_ok_and(|metadata| result::is_about(&metadata, &base.build));
    let there = whole && described && paths.built_image(&lab.lab_id).exists();
    Ok(match Why::of(inputs, note.inputs.as_ref()) {
        Why::Unchanged if !there => Why::Incomplete,
        why => why,
    })
}
