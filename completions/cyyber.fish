# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_cyyber_global_optspecs
    string join \n config= c/connect= o/output= as-user= q/quiet v/verbose h/help V/version
end

function __fish_cyyber_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_cyyber_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_cyyber_using_subcommand
    set -l cmd (__fish_cyyber_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c cyyber -n "__fish_cyyber_needs_command" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_needs_command" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_needs_command" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_needs_command" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_needs_command" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_needs_command" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_needs_command" -s V -l version -d 'Print version'
complete -c cyyber -n "__fish_cyyber_needs_command" -f -a "build" -d 'Build the base images of labs'
complete -c cyyber -n "__fish_cyyber_needs_command" -f -a "instance" -d 'Give students their VMs, and look after them'
complete -c cyyber -n "__fish_cyyber_needs_command" -f -a "reap" -d 'Walk instances that nobody uses down the idle ladder, once'
complete -c cyyber -n "__fish_cyyber_needs_command" -f -a "metrics" -d 'Print what there is and what it uses, for Prometheus'
complete -c cyyber -n "__fish_cyyber_needs_command" -f -a "doctor" -d 'Tell whether this host is ready, and what to do where it is not'
complete -c cyyber -n "__fish_cyyber_needs_command" -f -a "completions" -d 'Print the completion script for a shell'
complete -c cyyber -n "__fish_cyyber_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c cyyber -n "__fish_cyyber_using_subcommand build" -l jobs -d 'How many labs to build at once, at most' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand build" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand build" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand build" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand build" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand build" -l dry-run -d 'Render everything into the output directory, tell what would be built and why, and run nothing'
complete -c cyyber -n "__fish_cyyber_using_subcommand build" -l force -d 'Build even where nothing changed, with what the labs share, and so with newer upgrades'
complete -c cyyber -n "__fish_cyyber_using_subcommand build" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand build" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand build" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -f -a "create" -d 'Make a user\'s instance of a lab'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -f -a "start" -d 'Power an instance on, making it first where it is missing'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -f -a "pause" -d 'Pause an instance and give its memory back to the host'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -f -a "resume" -d 'Bring a paused instance back'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -f -a "stop" -d 'Shut an instance down'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -f -a "reset" -d 'Give an instance a clean disk on the lab\'s current base image'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -f -a "cleanup" -d 'Destroy instances with their disks'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -f -a "console" -d 'Get access to the console of a running instance'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -f -a "touch" -d 'Record that an instance is in use now'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -f -a "keep" -d 'Exempt an instance from the idle policy'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -f -a "stats" -d 'Show what instances use'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -f -a "list" -d 'List instances and their states'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and not __fish_seen_subcommand_from create start pause resume stop reset cleanup console touch keep stats list help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from create" -l users-from -d 'Do it for every user in this file, one id a line; - is standard input' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from create" -l jobs -d 'How many of them at once' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from create" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from create" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from create" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from create" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from create" -l start -d 'Power it on as well'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from create" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from create" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from start" -l users-from -d 'Do it for every user in this file, one id a line; - is standard input' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from start" -l jobs -d 'How many of them at once' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from start" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from start" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from start" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from start" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from start" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from start" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from start" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from pause" -l users-from -d 'Do it for every user in this file, one id a line; - is standard input' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from pause" -l jobs -d 'How many of them at once' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from pause" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from pause" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from pause" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from pause" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from pause" -l keep-memory -d 'Hold it still with its memory in RAM, instead of saving it to disk'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from pause" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from pause" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from pause" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from resume" -l users-from -d 'Do it for every user in this file, one id a line; - is standard input' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from resume" -l jobs -d 'How many of them at once' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from resume" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from resume" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from resume" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from resume" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from resume" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from resume" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from resume" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stop" -l users-from -d 'Do it for every user in this file, one id a line; - is standard input' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stop" -l jobs -d 'How many of them at once' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stop" -l timeout -d 'How long the guest may take, as in 90s or 2m' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stop" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stop" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stop" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stop" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stop" -l force -d 'Power it off at once: what the guest has not written to its disk, or has in saved memory, is lost'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stop" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stop" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stop" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from reset" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from reset" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from reset" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from reset" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from reset" -l yes -d 'Do not ask'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from reset" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from reset" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from reset" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from cleanup" -l lab -d 'Only instances of this lab' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from cleanup" -l user -d 'Only instances of this user' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from cleanup" -l state -d 'Only instances in this state' -r -f -a "stopped\t'Defined, not running, no saved memory'
starting\t'Running; the guest\'s agent has not answered since power-on and the boot timeout has not passed'
running\t'Running and ready'
idle\t'Running, no user activity, CPU capped'
paused\t'Memory saved to disk, or frozen in RAM'
crashed\t'The hypervisor says so'"
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from cleanup" -l inactive-for -d 'Only instances that were not used for this long, as in 24h or 7d; one whose last activity is not known counts as used now' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from cleanup" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from cleanup" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from cleanup" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from cleanup" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from cleanup" -l dry-run -d 'Say what would be destroyed, and destroy nothing'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from cleanup" -l yes -d 'Do not ask'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from cleanup" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from cleanup" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from cleanup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from console" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from console" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from console" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from console" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from console" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from console" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from console" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from touch" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from touch" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from touch" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from touch" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from touch" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from touch" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from touch" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from keep" -l until -d 'A length of time from now on (90s, 10m, 24h, 7d), a day, a time, or off' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from keep" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from keep" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from keep" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from keep" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from keep" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from keep" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from keep" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stats" -l watch -d 'Repeat it every so many seconds, from 1 to 3600, until Ctrl-C; LAB USER go before this [default: 2]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stats" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stats" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stats" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stats" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stats" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stats" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from stats" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from list" -l lab -d 'Only instances of this lab' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from list" -l user -d 'Only instances of this user' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from list" -l state -d 'Only instances in this state' -r -f -a "stopped\t'Defined, not running, no saved memory'
starting\t'Running; the guest\'s agent has not answered since power-on and the boot timeout has not passed'
running\t'Running and ready'
idle\t'Running, no user activity, CPU capped'
paused\t'Memory saved to disk, or frozen in RAM'
crashed\t'The hypervisor says so'"
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from list" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from list" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from list" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from list" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from list" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from help" -f -a "create" -d 'Make a user\'s instance of a lab'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from help" -f -a "start" -d 'Power an instance on, making it first where it is missing'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from help" -f -a "pause" -d 'Pause an instance and give its memory back to the host'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from help" -f -a "resume" -d 'Bring a paused instance back'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from help" -f -a "stop" -d 'Shut an instance down'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from help" -f -a "reset" -d 'Give an instance a clean disk on the lab\'s current base image'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from help" -f -a "cleanup" -d 'Destroy instances with their disks'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from help" -f -a "console" -d 'Get access to the console of a running instance'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from help" -f -a "touch" -d 'Record that an instance is in use now'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from help" -f -a "keep" -d 'Exempt an instance from the idle policy'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from help" -f -a "stats" -d 'Show what instances use'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from help" -f -a "list" -d 'List instances and their states'
complete -c cyyber -n "__fish_cyyber_using_subcommand instance; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c cyyber -n "__fish_cyyber_using_subcommand reap" -l jobs -d 'How many instances to take down at once' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand reap" -l timeout -d 'How long a guest that is stopped may take to shut down, as in 90s or 2m' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand reap" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand reap" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand reap" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand reap" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand reap" -l dry-run -d 'Tell of every instance what would be done and why, and do nothing'
complete -c cyyber -n "__fish_cyyber_using_subcommand reap" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand reap" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand reap" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand metrics" -l textfile -d 'Write it to this file, and print nothing' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand metrics" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand metrics" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand metrics" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand metrics" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand metrics" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand metrics" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand metrics" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand doctor" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand doctor" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand doctor" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand doctor" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand doctor" -l verify -d 'Compare the content of each base image with what was noted when it was made; reads them all'
complete -c cyyber -n "__fish_cyyber_using_subcommand doctor" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand doctor" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand completions" -l config -d 'The file that describes the labs [default: ./labs-config.json, then /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]' -r -F
complete -c cyyber -n "__fish_cyyber_using_subcommand completions" -s c -l connect -d 'The libvirt connection [default: host.connect of the configuration, which is qemu:///system unless set] [env: CYYBER_CONNECT]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand completions" -s o -l output -d 'What standard output carries [default: table] [env: CYYBER_OUTPUT]' -r -f -a "table\t'Tables and sentences for people'
json\t'One JSON document'"
complete -c cyyber -n "__fish_cyyber_using_subcommand completions" -l as-user -d 'Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]' -r
complete -c cyyber -n "__fish_cyyber_using_subcommand completions" -s q -l quiet -d 'Errors only on standard error: no progress, notes or warnings'
complete -c cyyber -n "__fish_cyyber_using_subcommand completions" -s v -l verbose -d 'More detail on standard error'
complete -c cyyber -n "__fish_cyyber_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and not __fish_seen_subcommand_from build instance reap metrics doctor completions help" -f -a "build" -d 'Build the base images of labs'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and not __fish_seen_subcommand_from build instance reap metrics doctor completions help" -f -a "instance" -d 'Give students their VMs, and look after them'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and not __fish_seen_subcommand_from build instance reap metrics doctor completions help" -f -a "reap" -d 'Walk instances that nobody uses down the idle ladder, once'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and not __fish_seen_subcommand_from build instance reap metrics doctor completions help" -f -a "metrics" -d 'Print what there is and what it uses, for Prometheus'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and not __fish_seen_subcommand_from build instance reap metrics doctor completions help" -f -a "doctor" -d 'Tell whether this host is ready, and what to do where it is not'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and not __fish_seen_subcommand_from build instance reap metrics doctor completions help" -f -a "completions" -d 'Print the completion script for a shell'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and not __fish_seen_subcommand_from build instance reap metrics doctor completions help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and __fish_seen_subcommand_from instance" -f -a "create" -d 'Make a user\'s instance of a lab'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and __fish_seen_subcommand_from instance" -f -a "start" -d 'Power an instance on, making it first where it is missing'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and __fish_seen_subcommand_from instance" -f -a "pause" -d 'Pause an instance and give its memory back to the host'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and __fish_seen_subcommand_from instance" -f -a "resume" -d 'Bring a paused instance back'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and __fish_seen_subcommand_from instance" -f -a "stop" -d 'Shut an instance down'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and __fish_seen_subcommand_from instance" -f -a "reset" -d 'Give an instance a clean disk on the lab\'s current base image'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and __fish_seen_subcommand_from instance" -f -a "cleanup" -d 'Destroy instances with their disks'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and __fish_seen_subcommand_from instance" -f -a "console" -d 'Get access to the console of a running instance'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and __fish_seen_subcommand_from instance" -f -a "touch" -d 'Record that an instance is in use now'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and __fish_seen_subcommand_from instance" -f -a "keep" -d 'Exempt an instance from the idle policy'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and __fish_seen_subcommand_from instance" -f -a "stats" -d 'Show what instances use'
complete -c cyyber -n "__fish_cyyber_using_subcommand help; and __fish_seen_subcommand_from instance" -f -a "list" -d 'List instances and their states'
