//! What a controller says of itself and its namespaces (NVM Express Base Specification 2.0, 5.17.2; NVM Command Set 1.0, 4.1.5).

use super::rings::DmaMemory;

/// A controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Serial number.
    pub serial: String,
    /// Model number.
    pub model: String,
    /// Firmware revision.
    pub firmware: String,
    /// The most bytes of one command, as a power of two of pages; zero: any.
    pub(super) transfer_pages: u8,
    /// Active namespaces, in the order of their numbers.
    pub namespaces: Vec<Namespace>,
}

/// A namespace: blocks that are read and written by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    /// Its number, from 1 on.
    pub id: u32,
    /// How many blocks it has.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_size: u64,
    /// Bytes of metadata of a block.
    pub metadata: u16,
}

fn text(memory: &DmaMemory, offset: usize, len: usize) -> String {
    let bytes: Vec<u8> = (0..len).map(|index| memory.read(offset + index)).collect();
    String::from_utf8_lossy(&bytes).trim_matches([' ', '\0']).to_owned()
}

impl Identity {
    pub(super) fn parse(data: &DmaMemory) -> Identity {
        Identity {
            serial: text(data, 4, 20),
            model: text(data, 24, 40),
            firmware: text(data, 64, 8),
            transfer_pages: data.read(77),
            namespaces: Vec::new(),
        }
    }
}

impl Namespace {
    pub(super) fn parse(id: u32, data: &DmaMemory) -> Namespace {
        let formatted: u8 = data.read(26);
        let index = usize::from(formatted & 0xf | (formatted >> 5 & 0b11) << 4);
        let format: u32 = data.read(128 + 4 * index);
        let shift = (format >> 16 & 0xff).min(63);
        Namespace { id, blocks: data.read(0), block_size: 1 << shift, metadata: format as u16 }
    }

    /// Bytes of data.
    pub fn size(&self) -> u64 {
        self.blocks.saturating_mul(self.block_size)
    }
}
