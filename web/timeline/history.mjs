/** What a timeline was, to go back to and forth. */
const MOST = 200;

export class History {
  #states = [];
  #at = -1;

  /** Begin anew with a state. */
  begin(state) {
    [this.#states, this.#at] = [[state], 0];
  }

  /** Go on to a state, if it is another; what was undone is gone. */
  push(state) {
    if (same(state, this.#states[this.#at])) return;
    this.#states = [...this.#states.slice(0, this.#at + 1), state].slice(-MOST);
    this.#at = this.#states.length - 1;
  }

  /** Say more of the state that holds now. */
  amend(state) {
    if (this.#states[this.#at]?.text === state.text) this.#states[this.#at] = state;
  }

  get canUndo() {
    return this.#at > 0;
  }

  get canRedo() {
    return this.#at < this.#states.length - 1;
  }

  /** The state before, or behind. */
  move(by) {
    this.#at = Math.min(Math.max(this.#at + by, 0), this.#states.length - 1);
    return this.#states[this.#at];
  }
}

const same = (one, other) => one?.text === other?.text && one?.frames === other?.frames;
