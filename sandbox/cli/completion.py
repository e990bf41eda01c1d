"""``sandbox completion SHELL``: a completion script made from the option tables, so that it cannot be stale."""

from __future__ import annotations

from sandbox.cli import image, policy
from sandbox.cli.changes import OPTIONS as CHANGES_OPTIONS
from sandbox.cli.exec import OPTIONS
from sandbox.cli.judge import COMMANDS as JUDGE_COMMANDS
from sandbox.cli.judge import OPTIONS as JUDGE_OPTIONS
from sandbox.cli.main import VERBS
from sandbox.cli.options import Option, UsageError
from sandbox.cli.ps import OPTIONS as RUN_OPTIONS
from sandbox.cli.top import OPTIONS as TOP_OPTIONS
from sandbox.cli.volume import COMMANDS as VOLUME_COMMANDS
from sandbox.cli.volume import OPTIONS as VOLUME_OPTIONS
from sandbox.cli.volume import TAKE_NAMES as TAKE_VOLUMES

SHELLS = ("bash", "zsh", "fish")
_RUN_VERBS = RUN_OPTIONS | {"top": TOP_OPTIONS} | CHANGES_OPTIONS
_TAKE_KEPT = tuple(CHANGES_OPTIONS)
_KEPT = """$(sandbox changes -q 2>/dev/null)"""
_VOLUMES = "$(sandbox volume ls -q 2>/dev/null)"
_TAKE_RUNS = ("stats", "pause", "resume", "kill")
_IMAGES = """$(sandbox image ls --no-header 2>/dev/null | awk '{print $1 != "-" ? $1 : $2}')"""
_RUNS = """$(sandbox ps --no-header 2>/dev/null | awk '{print $1; if ($2 != "-") print $2}')"""


def run(words: list[str]) -> int:
    """Print the script of one shell."""
    if words in (["-h"], ["--help"]):
        print(
            "usage: sandbox completion bash|zsh|fish\n\nPrint a completion script:\n"
            "  sandbox completion bash > ~/.local/share/bash-completion/completions/sandbox"
        )
        return 0
    match words:
        case ["bash"]:
            print(_bash())
        case ["zsh"]:
            print("#compdef sandbox\nautoload -U +X bashcompinit && bashcompinit\n" + _bash())
        case ["fish"]:
            print(_fish())
        case _:
            raise UsageError("say which shell", hint=f"`sandbox completion {'|'.join(SHELLS)}`")
    return 0


def _bash() -> str:
    flags = " ".join(f"--{option.name}" for option in OPTIONS)
    cases = "\n".join(
        f"        --{option.name}{'|-' + option.short if option.short else ''}) {_bash_values(option)}; return ;;"
        for option in OPTIONS
        if option.metavar and not option.metavar.startswith("[")
    )
    commands = {name: policy_options(name) for name in policy.commands()}
    policy_values = "\n".join(
        f"        {name}--{option.name}{f'|{name}-{option.short}' if option.short else ''}) {_bash_values(option)}; return ;;"
        for name, options in commands.items()
        for option in options
        if option.metavar
    )
    policy_flags = "\n".join(
        f'        {name}-*) COMPREPLY=($(compgen -W "{" ".join(f"--{option.name}" for option in options)}" -- "$cur")) ;;'
        for name, options in commands.items()
    )
    image_commands = {name: image_options(name) for name in image.commands()}
    image_values = "\n".join(
        f"        {name}--{option.name}{f'|{name}-{option.short}' if option.short else ''}) {_bash_values(option)}; return ;;"
        for name, options in image_commands.items()
        for option in options
        if option.metavar
    )
    image_flags = "\n".join(
        f'        {name}-*) COMPREPLY=($(compgen -W "{" ".join(f"--{option.name}" for option in options)}" -- "$cur")) ;;'
        for name, options in image_commands.items()
    )
    run_verbs = []
    for verb, options in _RUN_VERBS.items():
        words = " ".join([_RUNS] * (verb in _TAKE_RUNS) + [_KEPT] * (verb in _TAKE_KEPT) + [f"--{option.name}" for option in options])
        run_verbs.append(f'    {verb}) COMPREPLY=($(compgen -W "{words}" -- "$cur")); return ;;')
    run_lines = "\n".join(run_verbs)
    judge_values = "\n".join(
        f"        --{option.name}{'|-' + option.short if option.short else ''}) {_bash_values(option) if option.values else ':'}; return ;;"
        for option in JUDGE_OPTIONS
        if option.metavar
    )
    volume_lines = "\n".join(
        f'        {name}) COMPREPLY=($(compgen -W "{" ".join([_VOLUMES] * (name in TAKE_VOLUMES) + [f"--{option.name}" for option in options])}" -- "$cur")) ;;'
        for name, options in VOLUME_OPTIONS.items()
    )
    return f"""_sandbox() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} verb=${{COMP_WORDS[1]}} i
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{" ".join(VERBS)} --help --version" -- "$cur"))
        return
    fi
    case $verb in
    profiles|policies) COMPREPLY=($(compgen -W "$(sandbox "$verb" 2>/dev/null | cut -d' ' -f1) --json --help" -- "$cur")); return ;;
    policy)
        if [ "$COMP_CWORD" -eq 2 ]; then
            COMPREPLY=($(compgen -W "{" ".join(policy.commands())} --help" -- "$cur"))
            return
        fi
        case ${{COMP_WORDS[2]}}$prev in
{policy_values}
        esac
        case ${{COMP_WORDS[2]}}$cur in
{policy_flags}
        *) COMPREPLY=($(compgen -W "$(sandbox policies 2>/dev/null | cut -d' ' -f1)" -- "$cur") $(compgen -f -- "$cur")) ;;
        esac
        return ;;
    image)
        if [ "$COMP_CWORD" -eq 2 ]; then
            COMPREPLY=($(compgen -W "{" ".join(image.commands())} --help" -- "$cur"))
            return
        fi
        case ${{COMP_WORDS[2]}}$prev in
{image_values}
        esac
        case ${{COMP_WORDS[2]}}$cur in
{image_flags}
        import*) COMPREPLY=($(compgen -f -- "$cur")) ;;
        *)
            COMPREPLY=($(compgen -W "{_IMAGES}" -- "$cur"))
            __ltrim_colon_completions "$cur" 2>/dev/null
            ;;
        esac
        return ;;
    volume)
        if [ "$COMP_CWORD" -eq 2 ]; then
            COMPREPLY=($(compgen -W "{" ".join(VOLUME_COMMANDS)} --help" -- "$cur"))
            return
        fi
        case ${{COMP_WORDS[2]}} in
{volume_lines}
        esac
        return ;;
    judge)
        case $prev in
{judge_values}
        esac
        case $cur in
        -*) COMPREPLY=($(compgen -W "{" ".join(f"--{option.name}" for option in JUDGE_OPTIONS)}" -- "$cur")) ;;
        *) COMPREPLY=($([ "$COMP_CWORD" -eq 2 ] && compgen -W "{" ".join(JUDGE_COMMANDS)}" -- "$cur") $(compgen -f -- "$cur")) ;;
        esac
        return ;;
    completion) COMPREPLY=($(compgen -W "{" ".join(SHELLS)}" -- "$cur")); return ;;
{run_lines}
    doctor) COMPREPLY=($(compgen -W "--json --apparmor-profile --help" -- "$cur")); return ;;
    exec) ;;
    *) return ;;
    esac
    for ((i = 2; i < COMP_CWORD; i++)); do
        if [ "${{COMP_WORDS[i]}}" = -- ]; then
            COMPREPLY=($(compgen -c -- "$cur") $(compgen -f -- "$cur"))
            return
        fi
    done
    case $prev in
{cases}
    esac
    case $cur in
    -*) COMPREPLY=($(compgen -W "{flags} --" -- "$cur")) ;;
    *) COMPREPLY=($(compgen -c -- "$cur")) ;;
    esac
}}
complete -F _sandbox sandbox"""


def policy_options(command: str) -> tuple[Option, ...]:
    """Return the option table of a policy command."""
    options: tuple[Option, ...] = getattr(policy.load_command(command), "OPTIONS", ())
    return options


def image_options(command: str) -> tuple[Option, ...]:
    """Return the option table of an image command."""
    options: tuple[Option, ...] = getattr(image.load_command(command), "OPTIONS", ())
    return options


def _bash_values(option: Option) -> str:
    if "@files" in option.values:
        names = f' $(compgen -W "{_VOLUMES}" -- "$cur")' if "@volumes" in option.values else ""
        return f'COMPREPLY=($(compgen -f -- "$cur"){names})'
    if option.values and option.values[0].startswith("@"):
        return f'COMPREPLY=($(compgen -W "$(sandbox {option.values[0][1:]} 2>/dev/null | cut -d" " -f1)" -- "$cur"))'
    return f'COMPREPLY=($(compgen -W "{" ".join(option.values)}" -- "$cur"))'


def _fish() -> str:
    lines = [f"complete -c sandbox -n __fish_use_subcommand -f -a {verb} -d '{_quote(text)}'" for verb, text in VERBS.items()]
    for option in OPTIONS:
        short = f" -s {option.short}" if option.short else ""
        value = ""
        if option.metavar and not option.metavar.startswith("["):
            if "@files" in option.values:
                value = " -r -F" + (" -a '(sandbox volume ls -q 2>/dev/null)'" if "@volumes" in option.values else "")
            elif option.values and option.values[0].startswith("@"):
                value = f" -x -a '(sandbox {option.values[0][1:]} 2>/dev/null | string split -f1 \" \")'"
            else:
                value = f" -x -a '{' '.join(option.values)}'"
        lines.append(f"complete -c sandbox -n '__fish_seen_subcommand_from exec' -l {option.name}{short}{value} -d '{_quote(option.help)}'")
    lines.append(
        "complete -c sandbox -n '__fish_seen_subcommand_from profiles' -f -a '(sandbox profiles 2>/dev/null | string split -f1 \" \")'"
    )
    lines.append(
        "complete -c sandbox -n '__fish_seen_subcommand_from policies' -f -a '(sandbox policies 2>/dev/null | string split -f1 \" \")'"
    )
    names = " ".join(policy.commands())
    for command, text in policy.commands().items():
        there = f"__fish_seen_subcommand_from policy; and not __fish_seen_subcommand_from {names}"
        lines.append(f"complete -c sandbox -n '{there}' -f -a {command} -d '{_quote(text)}'")
        there = f"__fish_seen_subcommand_from policy; and __fish_seen_subcommand_from {command}"
        lines.append(f"complete -c sandbox -n '{there}' -a '(sandbox policies 2>/dev/null | string split -f1 \" \")'")
        for option in policy_options(command):
            short = f" -s {option.short}" if option.short else ""
            value = f" -x -a '{_fish_values(option)}'" if option.metavar else ""
            lines.append(f"complete -c sandbox -n '{there}' -l {option.name}{short}{value} -d '{_quote(option.help)}'")
    names = " ".join(image.commands())
    for command, text in image.commands().items():
        there = f"__fish_seen_subcommand_from image; and not __fish_seen_subcommand_from {names}"
        lines.append(f"complete -c sandbox -n '{there}' -f -a {command} -d '{_quote(text)}'")
        there = f"__fish_seen_subcommand_from image; and __fish_seen_subcommand_from {command}"
        if command != "import":
            names_of = '(sandbox image ls --no-header 2>/dev/null | string split -f1 " ")'
            lines.append(f"complete -c sandbox -n '{there}' {'' if command == 'export' else '-f '}-a '{names_of}'")
        for option in image_options(command):
            short = f" -s {option.short}" if option.short else ""
            value = f" -x -a '{_fish_values(option)}'" if option.metavar else ""
            lines.append(f"complete -c sandbox -n '{there}' -l {option.name}{short}{value} -d '{_quote(option.help)}'")
    lines.append(f"complete -c sandbox -n '__fish_seen_subcommand_from {' '.join(_TAKE_RUNS)}' -f -a '(sandbox ps -q 2>/dev/null)'")
    lines.append(f"complete -c sandbox -n '__fish_seen_subcommand_from {' '.join(_TAKE_KEPT)}' -a '(sandbox changes -q 2>/dev/null)'")
    for verb, options in _RUN_VERBS.items():
        for option in options:
            short = f" -s {option.short}" if option.short else ""
            value = " -x" if option.metavar else ""
            lines.append(
                f"complete -c sandbox -n '__fish_seen_subcommand_from {verb}' -l {option.name}{short}{value} -d '{_quote(option.help)}'"
            )
    for command, text in VOLUME_COMMANDS.items():
        there = f"__fish_seen_subcommand_from volume; and not __fish_seen_subcommand_from {' '.join(VOLUME_COMMANDS)}"
        lines.append(f"complete -c sandbox -n '{there}' -f -a {command} -d '{_quote(text)}'")
        there = f"__fish_seen_subcommand_from volume; and __fish_seen_subcommand_from {command}"
        if command in TAKE_VOLUMES:
            lines.append(f"complete -c sandbox -n '{there}' -f -a '(sandbox volume ls -q 2>/dev/null)'")
        for option in VOLUME_OPTIONS[command]:
            short = f" -s {option.short}" if option.short else ""
            lines.append(f"complete -c sandbox -n '{there}' -l {option.name}{short}{' -x' if option.metavar else ''} -d '{_quote(option.help)}'")
    for command, text in JUDGE_COMMANDS.items():
        lines.append(f"complete -c sandbox -n '__fish_seen_subcommand_from judge' -a {command} -d '{_quote(text)}'")
    for option in JUDGE_OPTIONS:
        short = f" -s {option.short}" if option.short else ""
        value = "" if not option.metavar else " -r -F" if "@files" in option.values else f" -x -a '{' '.join(option.values)}'"
        lines.append(f"complete -c sandbox -n '__fish_seen_subcommand_from judge' -l {option.name}{short}{value} -d '{_quote(option.help)}'")
    lines.append(f"complete -c sandbox -n '__fish_seen_subcommand_from completion' -f -a '{' '.join(SHELLS)}'")
    return "\n".join(lines)


def _fish_values(option: Option) -> str:
    if option.values and option.values[0].startswith("@"):
        return f'(sandbox {option.values[0][1:]} 2>/dev/null | string split -f1 " ")'
    return " ".join(option.values)


def _quote(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
