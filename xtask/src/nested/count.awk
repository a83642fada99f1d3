# Counts VM exits by phase and cause in the text of KVM's trace points, between the marks that a test build of the hypervisor writes to port 80H
# (hypervisor/src/hooks/mark.rs). The exit by which a mark itself is written belongs to no phase.
function digit(text, from_the_end) {
    return index("0123456789abcdef", substr(text, length(text) - from_the_end, 1)) - 1
}
# Whether a fault of the second stage met an entry that is there: KVM write-protects level 2's own tables.
function present(reason, info) {
    if (reason == "npf")
        return digit(info, 0) % 2
    return digit(info, 0) >= 8 || digit(info, 1) % 4 > 0
}
function word_after(name, i) {
    for (i = 1; i < NF; i++)
        if ($i == name)
            return $(i + 1)
}
function add(cause) { count[phase " " cause]++ }
BEGIN { phase = "before"; level = 2 }
/ kvm_nested_vm(run|enter): / { level = 3 }
/ kvm_nested_vmexit_inject: / { level = 2 }
/ kvm_exit: / {
    reason = word_after("reason")
    cause = reason
    if (reason == "npf" || reason == "EPT_VIOLATION")
        cause = reason (present(reason, word_after("info1")) ? ":write-protected" : ":absent")
    last = "level-" level ":" cause
    add(last)
}
/ kvm_pio: .* at 0x80 / {
    count[phase " " last]--
    mark = word_after("val")
    if (mark == "0x1") phase = "launch"
    if (mark == "0x2") phase = "running"
    if (mark == "0x3") phase = "teardown"
    if (mark == "0x4") phase = "after"
}
END {
    for (key in count)
        if (count[key] > 0 && key !~ /^(before|after) /)
            print "level 1: exits " key " " count[key]
}
