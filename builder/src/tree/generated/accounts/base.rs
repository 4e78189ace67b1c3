//! Debian's fixed accounts, from base-passwd 3.6.7's `group.master` and `passwd.master`.

/// Groups of base-passwd's group.master (Debian 13).
pub(super) const BASE_GROUPS: [(&str, u32); 38] = [
    ("root", 0),
    ("daemon", 1),
    ("bin", 2),
    ("sys", 3),
    ("adm", 4),
    ("tty", 5),
    ("disk", 6),
    ("lp", 7),
    ("mail", 8),
    ("news", 9),
    ("uucp", 10),
    ("man", 12),
    ("proxy", 13),
    ("kmem", 15),
    ("dialout", 20),
    ("fax", 21),
    ("voice", 22),
    ("cdrom", 24),
    ("floppy", 25),
    ("tape", 26),
    ("sudo", 27),
    ("audio", 29),
    ("dip", 30),
    ("www-data", 33),
    ("backup", 34),
    ("operator", 37),
    ("list", 38),
    ("irc", 39),
    ("src", 40),
    ("shadow", SHADOW),
    ("utmp", 43),
    ("video", 44),
    ("sasl", 45),
    ("plugdev", 46),
    ("staff", 50),
    ("games", 60),
    ("users", 100),
    ("nogroup", 65534),
];

/// The group that may read shadow.
pub(super) const SHADOW: u32 = 42;

pub(super) const NOLOGIN: &str = "/usr/sbin/nologin";

/// Users of base-passwd's passwd.master: name, uid, gid, home. Root's shell is
/// `/bin/sh` here: bash is in no minimal image.
pub(super) const BASE_USERS: [(&str, u32, u32, &str, &str); 9] = [
    ("root", 0, 0, "/root", "/bin/sh"),
    ("daemon", 1, 1, "/usr/sbin", NOLOGIN),
    ("bin", 2, 2, "/bin", NOLOGIN),
    ("sys", 3, 3, "/dev", NOLOGIN),
    ("man", 6, 12, "/var/cache/man", NOLOGIN),
    ("mail", 8, 8, "/var/mail", NOLOGIN),
    ("www-data", 33, 33, "/var/www", NOLOGIN),
    ("backup", 34, 34, "/var/backups", NOLOGIN),
    ("nobody", 65534, 65534, "/nonexistent", NOLOGIN),
];
