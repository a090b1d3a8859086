import type { Check } from './findings.ts'
import type { Grade } from './grade.ts'

/** A check as people read it, while the grading goes on. */
export function checkText({ name, notJudged, findings }: Check): string {
  const hasDefect = findings.some(({ severity }) => severity === 'defect')
  const head = hasDefect
    ? `✗ ${name}`
    : notJudged === null
      ? `✓ ${name}`
      : `- ${name}: not judged, ${notJudged}`
  return [
    head,
    ...findings.map(
      ({ code, severity, what, mend }) =>
        `    ${severity === 'defect' ? code : `${code} (advice)`}: ${what}\n      ${mend}`,
    ),
  ].join('\n')
}

/** What it all comes to. */
export function gradeText({ isConformant, modes, findings, figures }: Grade): string {
  const defects = findings.filter(({ severity }) => severity === 'defect').length
  const advice = findings.length - defects
  const verdict = isConformant
    ? `It follows the protocol, as ${modes.join(' and as ')} worker.`
    : `It does not follow the protocol: ${counted(defects, 'defect')}.`
  const more = advice === 0 ? '' : ` ${counted(advice, 'piece')} of advice.`
  return [...figures.map(({ name, ms }) => `  ${name}: ${ms} ms`), `${verdict}${more}`].join('\n')
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`
}
