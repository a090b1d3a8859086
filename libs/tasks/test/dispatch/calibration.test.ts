import { expect, test } from 'vitest'
import { EstimateCalibration } from '../../src/dispatch/calibration.ts'
import type { TaskId } from '../../src/index.ts'

const id = (name: string): TaskId => name as TaskId
const estimate = (earliest: number, latest: number) => ({
  at: (earliest + latest) / 2,
  earliest,
  latest,
  warm: false,
  how: '',
})

test('the calibration is the share of starts that came when they were expected, by the first word on each task', () => {
  const calibration = new EstimateCalibration()
  expect(calibration.result).toEqual({ samples: 0, within: null })
  calibration.predicted(id('a'), estimate(10, 20))
  calibration.predicted(id('a'), estimate(0, 1_000))
  calibration.started(id('a'), 30)
  expect(calibration.result).toEqual({ samples: 1, within: 0 })
  calibration.predicted(id('b'), estimate(10, 20))
  calibration.started(id('b'), 20)
  expect(calibration.result).toEqual({ samples: 2, within: 0.5 })
})

test('tasks that never ran, and those nobody had a word on, do not count', () => {
  const calibration = new EstimateCalibration()
  calibration.predicted(id('a'), estimate(10, 20))
  calibration.forget(id('a'))
  calibration.started(id('a'), 15)
  calibration.started(id('b'), 15)
  expect(calibration.result.samples).toBe(0)
})
