# run.pl LIMIT SECONDS COMMAND...: runs a command for at most SECONDS, and passes on the first LIMIT
# bytes of each stream; the command does not notice. Ends with its status, 128 plus the signal that
# ended it, 127 if there is none, or 126 if it cannot be run. It is one process, without modules: under
# software emulation, starting programs takes most of the time.
my ($limit, $seconds) = splice @ARGV, 0, 2;
pipe my $out, my $to_out;
pipe my $err, my $to_err;
my $pid = fork // die "it cannot be started: $!\n";
if (!$pid) {
    setpgrp;
    open STDOUT, ">&=", $to_out;
    open STDERR, ">&=", $to_err;
    exec { $ARGV[0] } @ARGV;
    my $status = $! == 2 ? 127 : 126;
    print STDERR "$ARGV[0]: $!\n";
    exit $status;
}
close $to_out;
close $to_err;
my $over;
$SIG{ALRM} = sub { $over = 1; kill KILL => -$pid };
alarm $seconds;
# What was started in the background may keep them open.
my @open = ([$out, *STDOUT, $limit], [$err, *STDERR, $limit]);
while (@open && !$over) {
    my $ready = "";
    vec($ready, fileno $_->[0], 1) = 1 for @open;
    next if select($ready, undef, undef, undef) < 1;
    @open = grep { !vec($ready, fileno $_->[0], 1) || pass_on($_) } @open;
}
waitpid $pid, 0;
exit($? & 127 ? 128 + ($? & 127) : $? >> 8);

sub pass_on {
    my ($from, $to, $left) = @{$_[0]};
    my $length = sysread $from, my $data, 65536;
    return if !$length;
    syswrite $to, $data, $left if $left > 0;
    $_[0][2] -= $length;
    return 1;
}
