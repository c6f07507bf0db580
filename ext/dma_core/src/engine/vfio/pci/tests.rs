use super::*;
use std::os::unix::fs::symlink;

/// A computer as sysfs would show it.
struct Computer(tempfile::TempDir);

impl Computer {
    fn new() -> Computer {
        let computer = Computer(tempfile::tempdir().unwrap());
        for directory in ["sys/bus/pci/devices", "sys/class/iommu", "dev/vfio"] {
            fs::create_dir_all(computer.path(directory)).unwrap();
        }
        computer
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn load_vfio(&self) {
        fs::create_dir_all(self.path("sys/bus/pci/drivers/vfio-pci")).unwrap();
        fs::write(self.path("dev/vfio/vfio"), "").unwrap();
    }

    fn add(&self, address: &str, class: u32, driver: Option<&str>, group: Option<u32>) {
        let device = self.path(&format!("sys/bus/pci/devices/{address}"));
        let _ = fs::remove_dir_all(&device);
        fs::create_dir_all(&device).unwrap();
        for (name, value) in
            [("vendor", "0x1234\n".into()), ("device", "0x11e8\n".into()), ("class", format!("0x{class:06x}\n"))]
        {
            fs::write(device.join(name), value).unwrap();
        }
        if let Some(driver) = driver {
            symlink(format!("../drivers/{driver}"), device.join("driver")).unwrap();
        }
        if let Some(group) = group {
            symlink(format!("../../iommu_groups/{group}"), device.join("iommu_group")).unwrap();
            fs::create_dir_all(self.path(&format!("sys/kernel/iommu_groups/{group}/devices/{address}"))).unwrap();
        }
    }

    fn obstacle(&self, address: &str) -> Option<(String, String)> {
        let function = read(self.0.path(), address).unwrap();
        function.obstacle.map(|obstacle| (obstacle.missing, obstacle.remedy))
    }
}

const EDU: &str = "0000:00:06.0";

#[test]
fn addresses_are_told_from_paths() {
    for address in ["0000:01:00.0", "01:00.0", "10000:e1:1f.7", "0000:0A:00.0"] {
        assert!(is_address(address), "{address}");
    }
    for path in
        ["", "sim", "/dev/x", "0000:01:00", "0000:1:00.0", "0000:01:00.0/", "000:01:00.0", "0000:01:0g.0", "a:b:c.d"]
    {
        assert!(!is_address(path), "{path}");
    }
    assert_eq!(full_address("0A:00.0").unwrap(), "0000:0a:00.0");
}

#[test]
fn each_thing_in_the_way_is_named_with_the_line_that_mends_it() {
    let computer = Computer::new();
    let expect = |missing: &str, remedy: &str| {
        let found = computer.obstacle(EDU).unwrap();
        assert!(found.0.contains(missing) && found.1.contains(remedy), "{found:?}");
    };
    computer.add(EDU, 0xff00, None, None);
    expect("no IOMMU is in use", "intel_iommu=on");
    fs::write(computer.path("sys/class/iommu/dmar0"), "").unwrap();
    expect("vfio-pci is not loaded", "modprobe vfio-pci");
    computer.add(EDU, 0xff00, Some("edu"), Some(3));
    expect("vfio-pci is not loaded", "modprobe vfio-pci");
    computer.load_vfio();
    computer.add(EDU, 0xff00, Some("vfio-pci"), None);
    expect("does not cover it", "another slot");
    computer.add(EDU, 0xff00, Some("edu"), Some(3));
    expect("the kernel's driver edu", "echo 0000:00:06.0 > /sys/bus/pci/devices/0000:00:06.0/driver/unbind");
    computer.add(EDU, 0xff00, None, Some(3));
    expect("no driver, not to vfio-pci", "driver_override; echo 0000:00:06.0 > /sys/bus/pci/drivers_probe");
    computer.add(EDU, 0xff00, Some("vfio-pci"), Some(3));
    computer.add("0000:00:06.1", 0x02_0000, Some("e1000"), Some(3));
    expect(
        "0000:00:06.1 of the same IOMMU group 3 is bound to the kernel's driver e1000",
        "0000:00:06.1/driver_override",
    );
    computer.add("0000:00:06.1", 0x06_0400, Some("pcieport"), Some(3));
    expect("/dev/vfio/3 is missing", "udev");
    fs::write(computer.path("dev/vfio/3"), "").unwrap();
    assert_eq!(computer.obstacle(EDU), None);
    computer.add(EDU, 0x01_0802, Some("mlx5_vfio_pci"), Some(3));
    assert_eq!(computer.obstacle(EDU), None);
}

#[test]
fn functions_are_listed_by_address_with_what_they_are() {
    let computer = Computer::new();
    computer.add("0000:01:00.0", 0x01_0802, Some("nvme"), Some(7));
    computer.add(EDU, 0xff00, None, None);
    let list = list_in(computer.0.path());
    assert_eq!(list.iter().map(|function| function.address.as_str()).collect::<Vec<_>>(), [EDU, "0000:01:00.0"]);
    let nvme = &list[1];
    assert_eq!((nvme.vendor, nvme.device, nvme.class, nvme.group), (0x1234, 0x11e8, 0x01_0802, Some(7)));
    assert_eq!(nvme.driver.as_deref(), Some("nvme"));
    assert_eq!(list_in(Path::new("/nowhere")), []);
}
