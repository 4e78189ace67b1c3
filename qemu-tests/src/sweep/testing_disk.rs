//! A small disk with every structure of a cast one. Also compiled into the tests with
//! a fake emulator: nothing of the crate is used here.

const SECTOR: usize = 512;
pub(crate) const SECTORS: usize = 1024;
pub(crate) const ESP: usize = 64 * SECTOR;
pub(crate) const LAYER: usize = 320 * SECTOR;
pub(crate) const ROOT_HASH: &str =
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

struct Bytes(Vec<u8>);

impl Bytes {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn long(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    fn word(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    fn half(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }
}

/// Half a megabyte: GPT, an ESP with a boot image, one layer.
pub(crate) fn disk() -> Vec<u8> {
    let mut disk = Bytes(vec![0; SECTORS * SECTOR]);
    tables(&mut disk);
    esp(&mut disk);
    boot_image(&mut disk, ESP + 13 * SECTOR);
    layer(&mut disk);
    disk.0
}

fn tables(disk: &mut Bytes) {
    disk.put(510, &[0x55, 0xaa]);
    for (header, other, entries) in [(1, 1023, 2), (1023, 1, 1022)] {
        let at = header * SECTOR;
        disk.put(at, b"EFI PART");
        disk.long(at + 32, other);
        disk.long(at + 72, entries);
        disk.word(at + 80, 4);
        disk.word(at + 84, 128);
        let entry = entries as usize * SECTOR;
        disk.put(
            entry,
            &[
                0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e,
                0xc9, 0x3b,
            ],
        );
        disk.long(entry + 32, 64);
        disk.long(entry + 40, 319);
        disk.put(entry + 128, &[1; 16]);
        disk.put(
            entry + 128 + 16,
            &[
                0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd,
                0xee, 0xff,
            ],
        );
        disk.long(entry + 128 + 32, 320);
        disk.long(entry + 128 + 40, 479);
    }
}

fn esp(disk: &mut Bytes) {
    disk.half(ESP + 11, 512);
    disk.put(ESP + 13, &[1]);
    disk.half(ESP + 14, 8);
    disk.put(ESP + 16, &[2]);
    disk.word(ESP + 36, 1);
    disk.word(ESP + 44, 2);
    disk.half(ESP + 48, 1);
    disk.half(ESP + 50, 6);
    disk.put(ESP + 510, &[0x55, 0xaa]);
    let mut entry = |cluster: usize, n: usize, name: &[u8], first: u16, size: u32| {
        let at = ESP + (10 + cluster - 2) * SECTOR + 32 * n;
        disk.put(at, name);
        disk.half(at + 26, first);
        disk.word(at + 28, size);
    };
    entry(2, 0, b"EFI        \x10", 3, 0);
    entry(3, 0, b".          \x10", 3, 0);
    entry(3, 1, b"..         \x10", 0, 0);
    entry(3, 2, b"BOOT       \x10", 4, 0);
    entry(4, 0, b".          \x10", 4, 0);
    entry(4, 1, b"..         \x10", 3, 0);
    entry(4, 2, b"BOOTX64 EFI\x20", 5, 2048);
}

fn boot_image(disk: &mut Bytes, at: usize) {
    disk.put(at, b"MZ");
    disk.word(at + 60, 64);
    disk.put(at + 64, b"PE\0\0");
    disk.half(at + 64 + 6, 3);
    disk.half(at + 64 + 20, 112);
    disk.word(at + 64 + 24 + 60, 512);
    let table = at + 64 + 24 + 112;
    let sections: [(&[u8], u32, u32); 3] = [
        (b".text", 512, 300),
        (b".bss", 0, 0),
        (b".initrd", 1024, 1000),
    ];
    for (n, (name, start, size)) in sections.into_iter().enumerate() {
        disk.put(table + 40 * n, name);
        disk.word(table + 40 * n + 8, size);
        disk.word(table + 40 * n + 16, size.next_multiple_of(512));
        disk.word(table + 40 * n + 20, start);
    }
    let machine = format!("{{\"root_hash\":\"{ROOT_HASH}\"}}");
    let mut archive = |start: usize, name: &str, content: &str| {
        let mut header = String::from("070701");
        for n in 0..13 {
            let value = match n {
                6 => content.len(),
                11 => name.len() + 1,
                _ => 0,
            };
            header.push_str(&format!("{value:08x}"));
        }
        disk.put(at + start, header.as_bytes());
        disk.put(at + start + 110, name.as_bytes());
        let content_at = (110 + name.len() + 1).next_multiple_of(4);
        disk.put(at + start + content_at, content.as_bytes());
    };
    archive(1024, "init", "program");
    archive(1024 + 400, "machine.json", &machine);
    archive(1024 + 700, "TRAILER!!!", "");
}

fn layer(disk: &mut Bytes) {
    const BLOCK: usize = 4096;
    let sb = LAYER + 1024;
    disk.word(sb + 4, 16);
    disk.word(sb + 24, 2);
    disk.word(sb + 32, 32_768);
    disk.word(sb + 40, 16);
    disk.half(sb + 56, 0xef53);
    disk.half(sb + 88, 256);
    let descriptor = LAYER + BLOCK;
    for (field, block) in [(0, 2), (4, 3), (8, 4)] {
        disk.word(descriptor + field, block);
    }
    // Blocks 0 to 8 are used; 5 is read at boot (see `reads`), 6 to 8 are not.
    disk.put(LAYER + 2 * BLOCK, &[0xff, 0x01]);
    for block in 5..9 {
        disk.put(LAYER + block * BLOCK, b"content");
    }
    let verity = LAYER + 16 * BLOCK;
    disk.put(verity, b"verity\0\0");
    disk.long(verity + 72, 16);
}
