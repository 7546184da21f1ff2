# Runs a server for as long as standard input stays open: when the process at the other end of that pipe
# ends, however it ends, so does the server. A line on the pipe is a signal to send to it.
# Arguments: the signal to send when the pipe closes, a folder to remove after that (or nothing), then the
# server's command.
last=$1
folder=$2
shift 2
exec 3<&0
"$@" </dev/null >&2 3<&- &
server=$!
echo "$server"
exec >&2
{
    while read -r signal; do kill "-$signal" "$server"; done <&3
    # Nobody else is left to tidy up: what follows is seen through, also when the shell below has ended.
    trap '' TERM
    kill "-$last" "$server"
    tenths=0
    while kill -0 "$server"; do
        [ "$tenths" -lt 100 ] || kill -KILL "$server"
        tenths=$((tenths + 1))
        sleep 0.1
    done
    [ -z "$folder" ] || { cd / && rm -rf "$folder"; }
} >/dev/null 2>&1 &
listener=$!
exec 3<&-
wait "$server"
status=$?
kill "$listener" 2>/dev/null
exit "$status"
