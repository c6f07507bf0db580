//! The driver of NVMe controllers: a namespace's bytes through I/O queue pairs, each with an interrupt of its own.

mod controller;
mod identify;
mod queue;
mod rings;
mod status;

use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use super::claim::Claim;
use super::Function;
use crate::engine::edges::Edges;
use crate::engine::{Bank, Engine, Limits, Mapping, Queue, Registers, Stats};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transfer::{Access, Op};

use controller::Controller;
pub use identify::{Identity, Namespace};
use queue::NvmeQueue;

/// Mass storage, non-volatile memory, NVMe's programming interface.
pub(super) const CLASS: u32 = 0x01_0802;

/// Bytes of a page, as the controller is told.
const PAGE: u64 = 4096;
/// I/O queue pairs, at most.
const QUEUES: u16 = 8;
/// One interrupt for each, and one for admin commands.
pub(super) const VECTORS: u32 = QUEUES as u32 + 1;
/// Entries of a queue: one more than commands that it holds.
const ENTRIES: u32 = 64;
/// The longest command: as many pages as fit one page of a page list.
const MAX_LEN: u64 = 2 << 20;

/// See the [module](self).
#[derive(Debug)]
pub struct Nvme {
    controller: Controller,
    identity: Identity,
    namespace: Namespace,
    max_len: u64,
    entries: u16,
    taken: Vec<Arc<AtomicBool>>,
    stats: Arc<Stats>,
    edges: Arc<Edges>,
}

impl Nvme {
    /// Resets the controller, and finds the namespace.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is no such namespace; [`Error::Unsupported`] for one with metadata; see also
    /// [`Controller::new`].
    pub(super) fn new(function: Arc<Function>, namespace: Option<u32>) -> Result<Nvme> {
        let vectors = function.vector_count() as u16;
        let address = function.listed().address.clone();
        let controller = Controller::new(function)?;
        let identity = controller.identity()?;
        let namespace = choose(&identity, namespace, &address)?;
        // The first vector is for admin commands, where there are several.
        let queues = controller.queues(vectors.saturating_sub(1).clamp(1, QUEUES))?;
        let max_len = match identity.transfer_pages {
            0 => MAX_LEN,
            pages => MAX_LEN.min(PAGE << pages.min(16)),
        };
        Ok(Nvme {
            namespace,
            max_len: (max_len / namespace.block_size).max(1) * namespace.block_size,
            // The fewest that the specification allows are two.
            entries: controller.max_entries.clamp(2, ENTRIES) as u16,
            taken: (0..queues).map(|_| Arc::default()).collect(),
            stats: Arc::default(),
            edges: Edges::new(),
            controller,
            identity,
        })
    }

    /// What the controller says of itself.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The namespace whose bytes this moves.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// How many channels there are.
    pub(super) fn channels(&self) -> u16 {
        self.taken.len() as u16
    }

    /// How many operations a channel holds.
    pub(super) fn depth(&self) -> u32 {
        u32::from(self.entries) - 1
    }

    /// The vector of a channel: its own, or the only one.
    fn vector_of(&self, index: u16) -> usize {
        usize::from(index + 1).min(self.controller.function.vector_count() - 1)
    }

    /// Bytes of one command's page list, which crosses no page.
    fn list_size(&self) -> usize {
        ((self.max_len / PAGE) as usize * 8).next_power_of_two().max(8)
    }

    fn reset(&self, since: u32) -> Result<()> {
        self.controller.reset(since, self.channels())
    }
}

fn choose(identity: &Identity, wanted: Option<u32>, address: &str) -> Result<Namespace> {
    let found = match wanted {
        Some(id) => identity.namespaces.iter().find(|namespace| namespace.id == id),
        None => identity.namespaces.first(),
    };
    let Some(namespace) = found else {
        let ids: Vec<_> = identity.namespaces.iter().map(|namespace| namespace.id.to_string()).collect();
        let (wanted, ids) = (wanted.map_or("any".into(), |id| id.to_string()), ids.join(", "));
        return Err(Error::Argument(format!(
            "namespace {wanted}: {address} has {}",
            if ids.is_empty() { "none" } else { &ids }
        )));
    };
    if namespace.metadata != 0 || namespace.block_size < 512 || namespace.block_size > 1 << 16 {
        let Namespace { id, block_size, metadata, .. } = namespace;
        return Err(Error::Unsupported(format!(
            "namespace {id} of {address} has blocks of {block_size} bytes with {metadata} of metadata; format it without (nvme format)"
        )));
    }
    Ok(*namespace)
}

/// The engine: a controller that is shared with its queues.
#[derive(Debug)]
pub(super) struct NvmeEngine(pub Arc<Nvme>);

impl Engine for NvmeEngine {
    fn name(&self) -> &'static str {
        "vfio"
    }

    fn limits(&self) -> Limits {
        let Namespace { block_size, .. } = self.0.namespace;
        // A PRP entry begins at a multiple of four bytes.
        Limits { granule: block_size, memory: 4, max_len: self.0.max_len, size: self.0.namespace.size(), ..Limits::ANY }
    }

    fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.0.stats)
    }

    fn queue(&self, index: u16, _depth: u32) -> Result<Box<dyn Queue>> {
        let Some(taken) = self.0.taken.get(usize::from(index)) else {
            return Err(Error::Argument(format!("channel {index}: there are {}, from 0 on", self.0.taken.len())));
        };
        Ok(Box::new(NvmeQueue::new(&self.0, index, Claim::new(taken, index)?)?))
    }

    fn edges(&self) -> Option<&Arc<Edges>> {
        Some(&self.0.edges)
    }

    fn map(&self, span: Span, access: Access) -> Result<Arc<dyn Mapping>> {
        self.0.controller.function.map(span, access)
    }

    fn prepare(&self, op: &Op) -> Result<()> {
        self.0.controller.function.prepare(op)
    }

    fn registers(&self, bank: Bank) -> Result<Arc<dyn Registers>> {
        self.0.controller.function.registers(bank)
    }

    fn pins(&self) -> bool {
        true
    }

    fn reset(&self) -> Result<()> {
        self.0.reset(self.0.controller.epoch())
    }
}
