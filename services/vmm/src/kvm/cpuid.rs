//! What a guest's processors say about themselves: the host's answer, with what KVM leaves to its user. Pure.
//!
//! Leaves and bits are those of Intel's manual (volume 2, CPUID) and AMD's (volume 3, appendix E).

use kvm_bindings::kvm_cpuid_entry2;
use omnirun_vmm_api::Vcpus;

/// Leaf 1, ECX: there is a hypervisor. Without it a guest never looks for KVM's clock.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, ECX: the local timer takes deadlines. Without it a guest measures its timer's rate at boot.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: Intel's virtualisation. A guest that makes guests of its own reaches the most intricate part of KVM.
const VMX: u32 = 1 << 5;
/// Leaf 1, ECX and EDX: what records events of the performance counters, and what says how well those can.
const DEBUG_STORE_AREA: u32 = 1 << 2;
const PERFORMANCE_CAPABILITIES: u32 = 1 << 15;
const DEBUG_STORE: u32 = 1 << 21;
/// Leaf 1, EDX: more than one logical processor.
const MANY: u32 = 1 << 28;
/// Leaf 0x0b: a level's kind, in ECX bits 15 to 8.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;
/// AMD's leaf 0x8000_0001, ECX: extended topology in leaf 0x8000_001e.
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
/// The same leaf and register: AMD's virtualisation.
const SVM: u32 = 1 << 2;

/// The entries for one processor of `vcpus`, from those that KVM supports on this host. Every processor is a core of
/// its own in one package.
pub fn for_vcpu(supported: &[kvm_cpuid_entry2], id: u8, vcpus: Vcpus) -> Vec<kvm_cpuid_entry2> {
    let count = u32::from(vcpus.0.max(1));
    let id = u32::from(id);
    // Bits of an APIC id that tell the cores of a package apart.
    let shift = u32::BITS - (count - 1).leading_zeros();
    supported.iter().map(|entry| edited(*entry, id, count, shift)).collect()
}

fn edited(mut entry: kvm_cpuid_entry2, id: u32, count: u32, shift: u32) -> kvm_cpuid_entry2 {
    match entry.function {
        1 => {
            entry.ecx &= !(VMX | DEBUG_STORE_AREA | PERFORMANCE_CAPABILITIES);
            entry.ecx |= HYPERVISOR | TSC_DEADLINE;
            entry.edx = entry.edx & !(MANY | DEBUG_STORE) | if count > 1 { MANY } else { 0 };
            // APIC id, number of ids; flush size and brand stay.
            entry.ebx = entry.ebx & 0xffff | id << 24 | count << 16;
        }
        4 => {
            // Cores in the package less one, threads that share the cache less one: a cache of the third level is the
            // package's, the others are a core's.
            let sharing = if entry.eax >> 5 & 7 >= 3 { count - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14 | (count - 1) << 26;
        }
        0xb | 0x1f => {
            entry.edx = id;
            let (width, logical, kind) = match entry.index {
                0 => (0, 1, LEVEL_THREAD),
                1 => (shift, count, LEVEL_CORE),
                _ => (0, 0, 0),
            };
            (entry.eax, entry.ebx, entry.ecx) = (width, logical, entry.index | kind);
        }
        0x8000_0001 => entry.ecx &= !(TOPOLOGY_EXTENSIONS | SVM),
        // Intel's performance counters, which show more of the host than a guest needs. AMD's oldest have no
        // leaf that could be emptied. Then AMD's virtualisation.
        0xa | 0x8000_000a => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        // Number of threads less one, and the bits of the APIC id that number them.
        0x8000_0008 => entry.ecx = (count - 1) | shift << 12,
        _ => {}
    }
    entry
}

/// What must be the same on a host that restores a snapshot: vendor, model, and the feature words.
pub fn fingerprint(supported: &[kvm_cpuid_entry2]) -> Vec<u32> {
    let of =
        |function: u32, index: u32| supported.iter().find(|e| e.function == function && e.index == index);
    let mut words = Vec::new();
    for (function, index) in
        [(0, 0), (1, 0), (7, 0), (7, 1), (0xd, 0), (0xd, 1), (0x8000_0001, 0), (0x8000_0008, 0)]
    {
        let Some(entry) = of(function, index) else {
            words.extend([0; 4]);
            continue;
        };
        match function {
            // EBX names the processor that asked, ECX bit 27 whether its kernel uses XSAVE.
            1 => words.extend([entry.eax, 0, entry.ecx & !(1 << 27), entry.edx]),
            // EBX is the size that is enabled at the moment; AMD's 8 counts cores in ECX.
            0xd => words.extend([entry.eax, 0, entry.ecx, entry.edx]),
            0x8000_0008 => words.extend([entry.eax, entry.ebx, 0, 0]),
            _ => words.extend([entry.eax, entry.ebx, entry.ecx, entry.edx]),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, ..Default::default() }
    }

    #[test]
    fn a_guest_finds_its_hypervisor_and_the_deadline_timer() {
        let [leaf] = for_vcpu(&[entry(1, 0)], 0, Vcpus(1))[..] else { panic!("one entry stays one") };
        assert_eq!(leaf.ecx, 1 << 31 | 1 << 24);
        assert_eq!((leaf.ebx, leaf.edx), (1 << 16, 0), "one processor, number 0");
    }

    #[test]
    fn each_processor_knows_its_number_and_how_many_there_are() {
        let host = kvm_cpuid_entry2 { ebx: 0x7755_0800, ..entry(1, 0) };
        let leaf = for_vcpu(&[host], 5, Vcpus(8))[0];
        assert_eq!((leaf.ebx, leaf.edx), (5 << 24 | 8 << 16 | 0x0800, 1 << 28));
        let topology = for_vcpu(&[entry(0xb, 0), entry(0xb, 1), entry(0xb, 2)], 5, Vcpus(6));
        let words: Vec<_> = topology.iter().map(|e| (e.eax, e.ebx, e.ecx, e.edx)).collect();
        assert_eq!(words, [(0, 1, 0x100, 5), (3, 6, 0x201, 5), (0, 0, 2, 5)]);
    }

    #[test]
    fn a_guest_finds_neither_virtualisation_nor_intels_performance_counters() {
        let all = |function| kvm_cpuid_entry2 {
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..entry(function, 0)
        };
        let guest = for_vcpu(&[1, 0xa, 0x8000_0001, 0x8000_000a].map(all), 0, Vcpus(1));
        let words: Vec<_> = guest.iter().map(|e| (e.eax, e.ebx, e.ecx, e.edx)).collect();
        assert_eq!((words[0].2, words[0].3), (!(1 << 5 | 1 << 2 | 1 << 15), !(1 << 28 | 1 << 21)));
        assert_eq!(words[2].2, !(1 << 2 | 1 << 22));
        assert_eq!([words[1], words[3]], [(0, 0, 0, 0); 2]);
    }

    #[test]
    fn one_processor_needs_no_bits_to_be_told_apart() {
        assert_eq!(for_vcpu(&[entry(0x8000_0008, 0)], 0, Vcpus(1))[0].ecx, 0);
        assert_eq!(for_vcpu(&[entry(0x8000_0008, 0)], 0, Vcpus(8))[0].ecx, 7 | 3 << 12);
    }

    #[test]
    fn a_fingerprint_changes_with_a_feature_and_not_with_the_processor_that_asked() {
        let host = |ebx, ecx| vec![kvm_cpuid_entry2 { ebx, ecx, ..entry(1, 0) }];
        assert_eq!(fingerprint(&host(1 << 24, 7)), fingerprint(&host(2 << 24, 7)));
        assert_ne!(fingerprint(&host(1 << 24, 7)), fingerprint(&host(1 << 24, 3)));
    }
}
