//! The descriptor of an OVA: one machine with one disk.
//!
//! Source: DMTF DSP0243 1.1.0 (namespace `ovf/envelope/1`, which all importers
//! read), its CIM resource types DSP0004; VMware's `vmw:Config` for the firmware.

/// What the descriptor tells.
#[derive(Debug)]
pub(super) struct Appliance<'a> {
    /// Name of the machine: letters, digits, `.`, `_` and `-`.
    pub(super) name: &'a str,
    /// Name of the disk's file.
    pub(super) disk: &'a str,
    /// Bytes of the disk.
    pub(super) capacity: u64,
    /// Bytes of the disk's file.
    pub(super) disk_bytes: u64,
}

/// The descriptor; its length does not depend on the numbers in it.
pub(super) fn descriptor(appliance: &Appliance<'_>) -> String {
    let Appliance {
        name,
        disk,
        capacity,
        disk_bytes,
    } = appliance;
    // Blanks between attributes mean nothing.
    let size = format!("{:<22}", format!("\"{disk_bytes}\""));
    let capacity = format!("{:<22}", format!("\"{capacity}\""));
    let hardware = hardware();
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    <File ovf:id="file1" ovf:href="{disk}" ovf:size={size}/>
  </References>
  <DiskSection>
    <Info>Disks of the machine</Info>
    <Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity={capacity} ovf:capacityAllocationUnits="byte" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <NetworkSection>
    <Info>Networks of the machine</Info>
    <Network ovf:name="network">
      <Description>Any network with DHCP</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="{name}">
    <Info>A machine</Info>
    <Name>{name}</Name>
    <OperatingSystemSection ovf:id="101" vmw:osType="otherLinux64Guest">
      <Info>The operating system</Info>
      <Description>Linux, 64-bit</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>What the machine needs</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>
{hardware}      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"#
    )
}

/// The items. In each, elements must be in the order of their names.
fn hardware() -> String {
    let items: [&[(&str, &str)]; 5] = [
        &[
            ("AllocationUnits", "hertz * 10^6"),
            ("ElementName", "1 CPU"),
            ("InstanceID", "1"),
            ("ResourceType", "3"),
            ("VirtualQuantity", "1"),
        ],
        &[
            ("AllocationUnits", "byte * 2^20"),
            ("ElementName", "1024 MiB of memory"),
            ("InstanceID", "2"),
            ("ResourceType", "4"),
            ("VirtualQuantity", "1024"),
        ],
        &[
            ("Address", "0"),
            ("ElementName", "SCSI controller"),
            ("InstanceID", "3"),
            ("ResourceSubType", "VirtualSCSI"),
            ("ResourceType", "6"),
        ],
        &[
            ("AddressOnParent", "0"),
            ("ElementName", "Disk"),
            ("HostResource", "ovf:/disk/disk1"),
            ("InstanceID", "4"),
            ("Parent", "3"),
            ("ResourceType", "17"),
        ],
        &[
            ("AddressOnParent", "7"),
            ("AutomaticAllocation", "true"),
            ("Connection", "network"),
            ("ElementName", "Network adapter"),
            ("InstanceID", "5"),
            ("ResourceSubType", "VmxNet3"),
            ("ResourceType", "10"),
        ],
    ];
    let mut text = String::new();
    for item in items {
        text.push_str("      <Item>\n");
        for (name, value) in item {
            text.push_str(&format!("        <rasd:{name}>{value}</rasd:{name}>\n"));
        }
        text.push_str("      </Item>\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_does_not_depend_on_the_numbers() {
        let appliance = |disk_bytes| Appliance {
            name: "a",
            disk: "a-disk1.vmdk",
            capacity: u64::MAX,
            disk_bytes,
        };
        let [none, most] = [0, u64::MAX].map(|bytes| descriptor(&appliance(bytes)));
        assert_eq!(none.len(), most.len());
        assert!(most.contains(&format!("ovf:size=\"{}\"", u64::MAX)));
    }
}
