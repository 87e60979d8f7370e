#!/usr/bin/perl
# Run as root, by the guest's agent, in a guest whose memory was restored from that of another one:
# gives it an identity of its own, before it has a network card. See ready.sh.
#
# Under software emulation, each program that is run takes as long as all of this, and so does each
# daemon that is started. So this is one program, which uses no module of Perl's and, where the host
# made the keys, no other program, and leaves the rest until the guest has an address.
#
# Its arguments are the pipe that it waits at for its input and the file where it says how that went:
# ready.sh leaves it running. Without arguments, it reads standard input.
#
# On its input, so that no list of processes shows it, a line each: the time in seconds since
# 1970; 64 random bytes in hexadecimal; and then the SSH host keys that the host made, each as a line
# with the name of its file, the lines of that and one with a dot.
use strict;
use warnings;

$ENV{PATH} = '/usr/sbin:/usr/bin:/sbin:/bin';
$ENV{LC_ALL} = 'C.UTF-8';
my $aside = '/var/lib/cyyber-warm';
my ($inbox, $answer) = @ARGV;

sub lines {
    my ($path) = @_;
    open my $file, '<', $path or return;
    chomp(my @lines = <$file>);
    return @lines;
}

sub put {
    my ($path, $mode, $content) = @_;
    open my $file, '>', $path or die "$path: $!\n";
    chmod $mode, $file;
    print $file $content or die "$path: $!\n";
    close $file or die "$path: $!\n";
}

sub say_how {
    my ($how) = @_;
    put("$answer.new", 0600, $how);
    rename "$answer.new", $answer;
}

if (defined $answer) {
    $SIG{__DIE__} = sub { say_how("@_") };
    open STDIN, '<', $inbox or die "$inbox: $!\n";
}
chomp(my $now = <STDIN> // '');
chomp(my $seed = <STDIN> // '');
my (%made, $name);
while (my $line = <STDIN>) {
    if ($line eq ".\n") { undef $name }
    elsif (defined $name) { $made{$name} .= $line }
    else { chomp($name = $line) }
}

# clock_settime(CLOCK_REALTIME)
my $clock = pack 'qq', split /\./, $now;
syscall(227, 0, $clock) == 0 or die "the clock was not set: $!\n";

# Everything below draws on this. A kernel that knows of generation ids has done it already.
$seed = pack 'H*', $seed;
open my $random, '+<', '/dev/urandom' or die "no /dev/urandom: $!\n";
# RNDADDENTROPY, RNDRESEEDCRNG
ioctl $random, 0x40085203, pack('ii', 8 * length $seed, length $seed) . $seed or die "no entropy: $!\n";
ioctl $random, 0x5207, 0 or die "no new seed: $!\n";

# Not by systemd-machine-id-setup: that takes the id of the virtual machine, which is the other one's.
my ($id) = lines('/proc/sys/kernel/random/uuid');
$id =~ tr/-//d;
put('/etc/machine-id', 0444, "$id\n");

# Those of the image, and no others.
my @slow;
for my $key (lines("$aside/keys")) {
    my ($kind) = $key =~ /^ssh_host_(\w+)_key$/ or next;
    if (defined $made{$key} && defined $made{"$key.pub"}) {
        put("/etc/ssh/$key", 0600, $made{$key});
        put("/etc/ssh/$key.pub", 0644, $made{"$key.pub"});
    } elsif ($kind eq 'rsa') {
        # It takes up to twenty seconds under software emulation.
        @slow = ('systemd-run', '--quiet', '--unit=cyyber-host-keys', 'sh', '-c',
            'ssh-keygen -A && systemctl try-reload-or-restart ssh sshd');
    } else {
        system('ssh-keygen', '-q', '-t', $kind, '-N', '', '-f', "/etc/ssh/$key") == 0
            or die "no SSH host key\n";
    }
}

# The journald of the other guest: what is logged from now on waits for the new one.
my @journald = grep { /^[1-9]\d*$/ } lines("$aside/journald");
kill 'STOP', @journald if @journald;
# Starts NetworkManager, where that sets up the network card: see ready.sh.
put('/run/cyyber-identity', 0644, '');
my @units = lines("$aside/units");

# cloud-init has done its part. Last: until here a boot would have it begin anew.
if (-d "$aside/cloud") {
    rename '/var/lib/cloud', "$aside/booted";
    rename "$aside/cloud", '/var/lib/cloud' or die "cloud-init's directory: $!\n";
}
rename $aside, "$aside.done" or die "$aside: $!\n";

# The rest has time until the guest has an address, where it is to get one.
if (defined $answer) {
    say_how("done\n");
} else {
    defined(my $child = fork) or die "no process: $!\n";
    exit if $child;
}
open STDIN, '<', '/dev/null';
open STDOUT, '>', '/dev/null';
open STDERR, '>', '/dev/null';
for (1 .. 300) {
    last if lines('/proc/net/route') > 1;
    select undef, undef, undef, 0.1;
}
# systemd starts a new journald when the old one is gone, which has stopped before this: with that file
# there, it would begin a journal on disk under the old machine-id, and also if it was asked to end.
put('/run/systemd/journal/flushed', 0644, '') if -d '/var/log/journal';
kill 'KILL', @journald if @journald;
for my $other (grep { $_ ne "/run/log/journal/$id" } glob '/run/log/journal/*') {
    unlink glob "$other/*";
    rmdir $other;
}
system 'systemctl', '--no-block', 'start', @units if @units;
system @slow if @slow;
exec 'rm', '-rf', "$aside.done", '/run/cyyber-warm';
