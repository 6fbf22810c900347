//! What runs on Slurm's nodes: a script for `/bin/sh` that begins an attempt's program only with time from its node, and
//! ends it before that time is over.
//!
//! The script and its node talk by two files of one line each, in the folder that both see: `job/ask` (`NUMBER JOB .`)
//! and `go` (`NUMBER SECONDS ORDER .`). Time that is given counts from when it was asked for, by the clock of Slurm's
//! node, so that a slow file system shortens it and never makes it longer (docs/internals/leases.md#slurm-job).
//! A line without the dot is still being written. Both clocks count the time that a machine is suspended.

use std::fmt::Write as _;

use stint_executor::{Launch, PROGRESS_FILE};

use crate::state::REFUSAL;

/// How long a job that Slurm began waits for its first answer, in seconds: its node may just be restarting.
pub const FIRST_ANSWER_S: u64 = 300;
/// How long after a question without an answer it asks again, in seconds.
const ASK_AGAIN_S: u64 = 10;

/// The variable that names the file for how far a program is.
const PROGRESS: &str = "STINT_PROGRESS_FILE";

/// Quotes a word for the shell.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The script of an attempt whose folder is `folder`.
pub fn text(launch: &Launch, folder: &str) -> String {
    let spec = &launch.spec;
    let directory = spec.limits.as_ref().and_then(|limits| limits.working_dir.as_deref());
    let mut env: Vec<(&String, &String)> = spec.env.iter().collect();
    env.retain(|(name, _)| !launch.env.contains_key(*name));
    env.extend(&launch.env);
    let progress = (PROGRESS.to_owned(), format!("{folder}/job/work/{PROGRESS_FILE}"));
    env.retain(|(name, _)| *name != PROGRESS);
    env.push((&progress.0, &progress.1));
    let path = env.iter().find(|(name, _)| *name == "PATH").map(|(_, value)| value.as_str());
    let mut text = String::from("#!/bin/sh\n");
    let _ = writeln!(
        text,
        "# Attempt {} of a Stint task: made by the node that handed it to Slurm.",
        launch.lease
    );
    let _ = writeln!(text, "folder={}", quoted(folder));
    let _ = writeln!(text, "grace={}", spec.stop_grace_ms.div_ceil(1_000));
    let _ = writeln!(text, "first_answer={FIRST_ANSWER_S} ask_again={ASK_AGAIN_S} refusal={REFUSAL}");
    text.push_str(HEAD);
    match directory {
        Some(directory) if directory.starts_with('/') => {
            let _ = writeln!(text, "begin_in={}", quoted(directory));
        }
        Some(below) => {
            let _ = writeln!(text, "begin_in=$folder/job/work/{}\nmkdir -p \"$begin_in\"", quoted(below));
        }
        None => text.push_str("begin_in=$folder/job/work\n"),
    }
    let arguments: Vec<String> = spec.command.iter().map(|word| quoted(word)).collect();
    let _ = writeln!(text, "set -- {}", arguments.join(" "));
    let find = path.map_or_else(String::new, |path| format!("PATH={}; ", quoted(path)));
    text.push_str("cd \"$begin_in\" || cannot_begin\n");
    let _ = writeln!(text, "({find}command -v -- \"$1\" >/dev/null 2>&1) || cannot_begin");
    text.push_str(LAUNCH);
    // A shell has no variables of other names; what it exports stands on no command line.
    let (plain, odd): (Vec<_>, Vec<_>) = env.into_iter().partition(|(name, _)| every_shell_can_export(name));
    for (name, value) in plain {
        let _ = writeln!(text, "    export {name}={}", quoted(value));
    }
    text.push_str("    exec \"$STINT__SETSID\" \"$STINT__ENV\" ${STINT__SIGNALS:+\"$STINT__SIGNALS\"} --");
    odd.iter().for_each(|(name, value)| {
        let _ = write!(text, " {}", quoted(&format!("{name}={value}")));
    });
    text.push_str(" \"$STINT__NICE\" -n 0 -- \"$@\"\n) </dev/null >&8 2>&9 7>&- 8>&- 9>&- &\n");
    text.push_str(TAIL);
    text
}

/// Names that some shells keep for themselves, beside those that begin with `BASH`: setting one ends them, or does nothing.
const SHELLS: &[&str] = &[
    "UID",
    "EUID",
    "PPID",
    "OPTIND",
    "SHELLOPTS",
    "LINENO",
    "IFS",
    "GROUPS",
    "DIRSTACK",
    "FUNCNAME",
    "RANDOM",
    "SRANDOM",
    "SECONDS",
    "EPOCHSECONDS",
    "EPOCHREALTIME",
    "HISTCMD",
    "_",
];

/// Whether every shell can have a variable of this name.
fn every_shell_can_export(name: &str) -> bool {
    let mut bytes = name.bytes();
    !SHELLS.contains(&name)
        && !name.starts_with("BASH")
        && bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Just before the program: its output is there, and it still has time.
const LAUNCH: &str = r#"STINT__SETSID=$(command -v setsid) && STINT__ENV=$(command -v env) && STINT__NICE=$(command -v nice) || cannot_begin
# What a shell starts beside itself ignores these two, and could never be interrupted. Not every env can undo that.
STINT__SIGNALS=--default-signal=INT,QUIT
"$STINT__ENV" "$STINT__SIGNALS" true 2>/dev/null || STINT__SIGNALS=''
# Why the program is ended, the first reason counts. On this node's own disk, for a shared one may hang, and without a
# name, so that nothing stays there.
note=$(mktemp /tmp/stint.XXXXXX) || no_time late
exec 7<>"$note"
rm -f "$note"
note=/proc/self/fd/7
# Space for every word is taken now.
printf 'none \n' >&7 || no_time late
exec 8>"$folder/job/stdout" 9>"$folder/job/stderr"
hear
look_at_clock
[ "$order" = run ] || no_time told
[ "$now" -lt "$until" ] || no_time late
# To its group, or to itself while it has none yet.
tell_program() { kill "-$1" "-$program" 2>/dev/null || kill "-$1" "$program" 2>/dev/null; }
program='' end_it=''
read_note() {
    said=''
    read -r said < "$note" || :
}
write_note() { printf '%-5s\n' "$1" 1<>"$note"; }
because() {
    read_note
    [ "$said" != none ] || write_note "$1"
}
# Its end was not noticed yet: its number is still its own.
is_there() {
    read_note
    [ "$said" != over ] && kill -0 "$program" 2>/dev/null
}
# Whether a reason can be noted or not.
end_late() {
    is_there || return 0
    because late
    tell_program KILL
}
heed_slurm() { trap 'end_it=yes; because slurm; [ -z "$program" ] || tell_program TERM' TERM INT; }
heed_slurm
(
"#;

/// Up to the program: asks for time.
const HEAD: &str = r#"
umask 022
number=0 answered=0 asked=0 until=0 given=0 order=run

# Whole seconds since this machine began; no process is made for it.
look_at_clock() { read -r now rest < /proc/uptime; now=${now%%.*}; }
ask() {
    number=$((number + 1))
    look_at_clock
    asked=$now
    eval "asked_$number=$now"
    printf '%s %s .\n' "$number" "$SLURM_JOB_ID" > "$folder/job/ask"
}
hear() {
    got='' seconds='' word='' dot=''
    { read -r got seconds word dot < "$folder/go"; } 2>/dev/null || :
    [ "$dot" = . ] || return 0
    case $got$seconds in *[!0-9]*) return 0 ;; esac
    order=$word
    # Answers may be slower than it asks again: each counts from its own question.
    [ "$got" -gt "$answered" ] && [ "$got" -le "$number" ] || return 0
    eval "from=\$asked_$got"
    while [ "$answered" -lt "$got" ]; do
        answered=$((answered + 1))
        unset "asked_$answered"
    done
    given=$seconds
    [ $((from + seconds)) -le "$until" ] || until=$((from + seconds))
}
cannot_begin() {
    trap - EXIT
    echo 'missing .' > "$folder/job/exit"
    exit 127
}

# The answer came too late, or was that it is to end.
no_time() {
    trap - EXIT
    printf '%s %s .\n' "$1" "$refusal" > "$folder/job/exit"
    exit "$refusal"
}

cd "$folder/job" || exit "$refusal"
if [ -z "${HOME-}" ]; then
    HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
    export HOME
fi
# Slurm may begin a job a second time, when its controller forgot that it did: the program runs once.
mkdir began 2>/dev/null || exit "$refusal"
# A shell that can make no process, or no file, ends: then its program never began.
trap 'no_time late' EXIT
trap 'no_time slurm' TERM INT
ask
look_at_clock
give_up=$((now + first_answer))
while [ "$answered" = 0 ]; do
    look_at_clock
    [ "$now" -lt "$give_up" ] || no_time late
    [ "$now" -lt $((asked + ask_again)) ] || ask
    sleep 1
    hear
    [ "$order" = run ] || no_time told
done
look_at_clock
[ "$now" -lt "$until" ] || no_time late
"#;

/// From the program's start on: a guard beside it ends it in time.
const TAIL: &str = r#"program=$!
# Without a guard it does not run.
trap 'end_late; no_time late' EXIT
[ -z "$end_it" ] || tell_program TERM
# Ends the program at a fixed time, whatever becomes of the shared folder: it touches nothing of it. All processes that
# takes are made here, for later there may be none to be had.
end_at() {
    (
        soon='' end=''
        trap 'trap - EXIT; kill -KILL $soon $end 2>/dev/null; exit 0' USR1
        trap end_late EXIT
        cd /
        look_at_clock
        left=$(($1 > now ? $1 - now : 0))
        sleep $((left > grace ? left - grace : 0)) &
        soon=$!
        sleep "$left" &
        end=$!
        wait "$soon"
        soon=''
        if is_there; then
            because late
            tell_program TERM
        fi
        wait "$end"
        end=''
    ) </dev/null >/dev/null 2>&1 &
    before=$killer
    killer=$!
    [ -z "$before" ] || kill -USR1 "$before" 2>/dev/null
}
# Slurm tells every process of a job to end; the guard and what it makes stay as long as the program does.
trap '' TERM INT HUP
(
    told='' killer='' ends=$until
    trap end_late EXIT
    end_at "$ends"
    # From here on it ends in time also when this shell can go on no longer.
    trap - EXIT
    trap 'kill -USR1 "$killer" 2>/dev/null; exit 0' USR1
    while is_there; do
        look_at_clock
        # Sleeping takes no account of a machine that is suspended.
        [ "$now" -lt "$ends" ] || end_late
        hear
        if [ "$until" -gt "$ends" ]; then
            ends=$until
            end_at "$ends"
        fi
        if [ "$order" = kill ]; then
            because told
            tell_program KILL
        elif [ "$order" = term ] && [ -z "$told" ]; then
            because told
            told=yes
            tell_program TERM
        fi
        if [ "$order" = run ]; then
            if [ "$answered" = "$number" ]; then
                [ "$now" -lt $((asked + given / 3)) ] || ask
            else
                [ "$now" -lt $((asked + ask_again)) ] || ask
            fi
        fi
        sleep 1
    done
    kill -USR1 "$killer" 2>/dev/null
) </dev/null >/dev/null 2>&1 &
guard=$!
trap - EXIT HUP
heed_slurm
# Closing may wait for the shared folder.
exec 8>&- 9>&-
while :; do
    wait "$program"
    code=$?
    # A signal cuts waiting short, and says nothing of how the program ended.
    if ! kill -0 "$program" 2>/dev/null; then
        wait "$program"
        last=$?
        [ "$last" = 127 ] || code=$last
        break
    fi
done
# What it left behind: not every site lets Slurm find it.
kill -KILL "-$program" 2>/dev/null
read_note
word=$said
write_note over
case $word in late | told | slurm) ;; *) word=code ;; esac
printf '%s %s .\n' "$word" "$code" > "$folder/job/exit"
kill -USR1 "$guard" 2>/dev/null
# What Slurm ended is to show it: one that it cancelled before it ran shows nothing.
[ "$word$code" = slurm0 ] && exit 143
exit "$code"
"#;
