//! Every option of every command is shown by a test to do what its help says. Which one is listed
//! here, so that an option that comes without a test is noticed.

use std::collections::BTreeSet;

use clap::{Arg, Command, CommandFactory};
use cyyber::cli::Cli;

/// A command, its option, and the file and the name of a test of it.
const SHOWN: &str = "
cyyber  --config       cli          the_configuration_is_the_options_then_the_environments_then_the_one_here
cyyber  --connect      cli          an_option_goes_before_the_environment_and_that_before_the_file
cyyber  -c             cli          a_short_option_is_a_long_one
cyyber  --output       cli          wrong_command_lines_are_usage_errors
cyyber  -o             cli          a_short_option_is_a_long_one
cyyber  --as-user      as_user      nothing_of_anyone_else_exists
cyyber  --quiet        build        quiet_leaves_errors_alone
cyyber  -q             cli          a_short_option_is_a_long_one
cyyber  --verbose      cli          a_short_option_is_a_long_one
cyyber  -v             reaper       kept_busy_and_never_are_left_alone
cyyber  --help         cli          a_short_option_is_a_long_one
cyyber  -h             cli          a_short_option_is_a_long_one
cyyber  --version      cli          a_short_option_is_a_long_one
cyyber  -V             cli          a_short_option_is_a_long_one
build   --dry-run      build        a_dry_run_renders_and_runs_nothing
build   --force        build        labs_share_a_stage_and_a_second_build_changes_nothing
build   --jobs         build        no_more_is_built_at_once_than_there_is_memory_for
create  --start        instances    create_can_start_what_it_makes
create  --users-from   class        one_failure_does_not_stop_the_others
create  --jobs         class        so_many_are_worked_on_at_once_as_jobs_says
start   --users-from   class        a_class_is_started_paused_resumed_and_stopped
start   --jobs         class        so_many_are_worked_on_at_once_as_jobs_says
start   --wait         ready        a_start_waits_no_longer_than_it_is_told_and_leaves_the_guest_on
pause   --users-from   class        a_class_is_started_paused_resumed_and_stopped
pause   --jobs         class        so_many_are_worked_on_at_once_as_jobs_says
pause   --keep-memory  saved_memory a_guest_frozen_first_wakes_up_running
resume  --users-from   class        a_class_is_started_paused_resumed_and_stopped
resume  --jobs         class        so_many_are_worked_on_at_once_as_jobs_says
resume  --wait         ready        a_class_is_waited_for_and_each_that_is_not_ready_is_named
stop    --users-from   class        a_class_is_started_paused_resumed_and_stopped
stop    --jobs         class        so_many_are_worked_on_at_once_as_jobs_says
stop    --timeout      instances    stop_powers_off_at_the_timeout_and_says_so
stop    --force        instances    stop_by_force_does_not_wait
reset   --yes          cleanup      a_reset_instance_is_clean_and_on_the_current_base
cleanup --lab          cleanup      an_instance_goes_with_all_it_has_and_nothing_else
cleanup --user         cleanup      an_instance_goes_with_all_it_has_and_nothing_else
cleanup --state        cleanup      an_instance_goes_with_all_it_has_and_nothing_else
cleanup --dry-run      cleanup      an_instance_goes_with_all_it_has_and_nothing_else
cleanup --yes          cleanup      an_instance_goes_with_all_it_has_and_nothing_else
cleanup --inactive-for cleanup      what_may_be_in_use_stays
exec    --users-from   class        a_command_in_a_guest_that_cannot_run_it_is_told_apart_from_one_that_fails
exec    --jobs         class        so_many_commands_run_at_once_as_jobs_says
exec    --wake         class_verbs  a_class_runs_commands_and_gets_and_gives_files
exec    --timeout      class_verbs  a_class_runs_commands_and_gets_and_gives_files
push    --users-from   class_verbs  a_class_runs_commands_and_gets_and_gives_files
push    --jobs         class_verbs  a_class_runs_commands_and_gets_and_gives_files
push    --owner        class_verbs  a_class_runs_commands_and_gets_and_gives_files
push    --replace      class_verbs  a_class_runs_commands_and_gets_and_gives_files
push    --max-size     class        what_cannot_be_copied_is_refused_before_anything_changes
push    --timeout      class_verbs  a_class_runs_commands_and_gets_and_gives_files
collect --users-from   class_verbs  a_class_runs_commands_and_gets_and_gives_files
collect --jobs         class_verbs  a_class_runs_commands_and_gets_and_gives_files
collect --from         class_verbs  a_class_runs_commands_and_gets_and_gives_files
collect --to           class_verbs  a_class_runs_commands_and_gets_and_gives_files
collect --max-size     class_verbs  a_class_runs_commands_and_gets_and_gives_files
collect --timeout      class_verbs  a_class_runs_commands_and_gets_and_gives_files
screens --html         screens      all_screens_are_on_one_page_and_to_look_at_them_is_no_use_of_them
screens --watch        screens      all_screens_are_on_one_page_and_to_look_at_them_is_no_use_of_them
screens --viewer       gateway      who_watches_sees_and_neither_touches_nor_wakes
keep    --until        reaper       kept_busy_and_never_are_left_alone
stats   --watch        watching     json_is_one_document_a_line_until_a_signal
list    --lab          instances    list_filters_by_lab_user_and_state
list    --user         instances    list_filters_by_lab_user_and_state
list    --state        instances    list_filters_by_lab_user_and_state
reap    --dry-run      reaper       a_dry_run_tells_all_and_changes_nothing
reap    --jobs         reaper       so_many_steps_are_taken_at_once_as_jobs_says
reap    --timeout      reaper       so_many_steps_are_taken_at_once_as_jobs_says
report  --since        report       a_report_adds_up_the_journal_over_its_files
report  --lab          report       a_report_adds_up_the_journal_over_its_files
report  --html         report       a_page_is_small_and_needs_nothing_else
timetable --ahead      timetable    the_week_is_shown_with_what_it_takes
gateway --listen       gateway      it_does_tls_itself_and_reads_a_new_certificate
gateway --certificate  gateway      it_does_tls_itself_and_reads_a_new_certificate
gateway --key          gateway      it_does_tls_itself_and_reads_a_new_certificate
gateway --sessions     gateway      it_is_bounded_and_takes_leave
console --path-only    gateway      a_path_opens_a_console_once_and_wakes_its_instance
console --view         gateway      who_watches_sees_and_neither_touches_nor_wakes
fence   --yes          hosts        a_single_host_has_no_others
metrics --textfile     metrics      a_file_is_there_as_a_whole_and_for_everyone
doctor  --verify       doctor       what_is_wrong_is_told_with_its_remedy
";

fn shown() -> impl Iterator<Item = [&'static str; 4]> {
    let rows = SHOWN.lines().filter(|row| !row.is_empty());
    rows.map(|row| {
        let words: Vec<_> = row.split_whitespace().collect();
        words.try_into().unwrap()
    })
}

/// Each option of `command` and of those below it. Help is the same everywhere.
fn options(command: &Command, all: &mut BTreeSet<(String, String)>) {
    let is_root = command.get_name() == "cyyber";
    let own = |arg: &&Arg| {
        let everywhere = arg.is_global_set() || arg.get_id() == "help";
        !arg.is_positional() && (is_root || !everywhere)
    };
    for arg in command.get_arguments().filter(own) {
        let long = arg.get_long().map(|long| format!("--{long}"));
        let short = arg.get_short().map(|short| format!("-{short}"));
        let names = long.into_iter().chain(short);
        all.extend(names.map(|name| (command.get_name().to_owned(), name)));
    }
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        options(sub, all);
    }
}

#[test]
fn every_option_has_a_test() {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let mut all = BTreeSet::new();
    options(&program, &mut all);
    let rows = shown().map(|[command, option, ..]| (command.to_owned(), option.to_owned()));
    let listed: BTreeSet<_> = rows.collect();
    assert_eq!(listed.len(), shown().count(), "one is there twice");
    let missing: Vec<_> = all.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&all).collect();
    assert!(
        missing.is_empty(),
        "write a test, and name it here: {missing:?}"
    );
    assert!(gone.is_empty(), "no such options: {gone:?}");
}
