//! DMA as the IBM AT has it: two Intel 8237A in cascade, page registers beside them, and a card that asks them for transfers.

mod cascade;
mod chip;
