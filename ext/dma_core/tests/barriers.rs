//! Barriers of the whole process: alone in theirs, for no weak order of another test would last beside them.

use std::sync::Arc;

use dma_core::memory::processor::{read_barrier, write_barrier, Attachment, Processor, ProcessorOptions};
use dma_core::memory::{Layout, Lock, Region, Span};
use dma_core::transfer::Access;

fn byte(region: &Region, offset: usize) -> u8 {
    let mut byte = 0;
    // SAFETY: there is room for a byte.
    unsafe { region.read(offset, &raw mut byte, 1) }.unwrap();
    byte
}

#[test]
fn each_barrier_is_one_of_every_machine() {
    let options =
        ProcessorOptions { coherent: true, lines: None, injection: false, delay: Some(1000), miss: 1, seed: 0 };
    let machines = [(), ()].map(|()| {
        let (processor, region) =
            (Processor::new(options, Arc::default()), Region::allocate(Layout::new(512), Lock::Never).unwrap());
        let span = Span::new(&region, 0, 512).unwrap();
        let attached = Attachment::new(&processor, &span, Access::Both, true).unwrap();
        (processor, region, attached)
    });
    // SAFETY: the offsets are inside the region.
    let at = |region: &Arc<Region>, offset: usize| unsafe { (region.address() as *mut u8).add(offset) };
    let device_sees = |processor: &Processor, region: &Arc<Region>, offset: usize| {
        let at = at(region, offset);
        // SAFETY: the region has that byte.
        processor.device(Access::Read, at as usize, 1, || unsafe { at.read() })
    };
    for (processor, region, _) in &machines {
        [0, 64].iter().for_each(|offset| region.fill(*offset, 1, 2).unwrap());
        for offset in [128, 192] {
            let at = at(region, offset);
            // SAFETY: the region has that byte.
            processor.device(Access::Write, at as usize, 1, || unsafe { at.write(2) });
        }
        assert_eq!((device_sees(processor, region, 0), byte(region, 128)), (0, 0));
    }
    write_barrier();
    for (processor, region, _) in &machines {
        assert_eq!((device_sees(processor, region, 0), byte(region, 128)), (2, 0));
    }
    read_barrier();
    for (_, region, _) in &machines {
        assert_eq!(byte(region, 128), 2);
    }
}
